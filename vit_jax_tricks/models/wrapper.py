"""A model in another model's place."""

import dataclasses
from typing import Any

from vit_jax_tricks.models.base import ImageModel
from vit_jax_tricks.param_names import GENERAL, ParameterRoles


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


def roles_of(model: Any) -> ParameterRoles:
    """The model's roles of parameters; for any other Flax module, the general ones."""
    known = isinstance(model, ImageModel | ModelWrapper)
    return model.roles if known else GENERAL
