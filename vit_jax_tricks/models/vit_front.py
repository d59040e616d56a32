"""A `VisionTransformer` under the field names of another reference class."""

from typing import Any

import flax.linen as nn

from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.typing import Array, Float, Num


class VitFront(nn.Module):
    """Base of families whose fields only describe a `VisionTransformer`.

    A family adds its fields and `vit`. Parameters and outputs are those of `vit()`.
    """

    def vit(self, **more: Any) -> VisionTransformer:
        """The equivalent `VisionTransformer`; `more` holds its parent."""
        raise NotImplementedError

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an input image."""
        return self.vit(parent=None).image_shape

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.vit(parent=None).grid

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patch tokens."""
        return self.vit(parent=None).prefix_tokens

    @property
    def position_prefix(self) -> int:
        """Rows of the position table that belong to prefix tokens."""
        return self.vit(parent=None).position_prefix

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        self.vit(parent=None).check()

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w c"], train: bool = False
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        return self.vit(parent=self.scope)(images, train)

    def fields(self, *left_out: str) -> dict[str, Any]:
        """This module's own fields by name, except `left_out`."""
        return {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in (*left_out, "parent", "name")
        }
