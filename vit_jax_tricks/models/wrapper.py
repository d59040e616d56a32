"""A model in another model's place."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class ModelWrapper:
    """A model with another `apply`; other attributes are looked up on `model`."""

    model: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    def at_size(self, size: int) -> Any:
        """The same around the model at another image size."""
        return dataclasses.replace(self, model=self.model.at_size(size))
