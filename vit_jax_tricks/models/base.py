"""Bases of the model families: the fields of an image and what follows from them."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.typing import Array, Float


class ImageModel(nn.Module):
    """Fields that all families have; `img_size` is one number or (height, width)."""

    img_size: int | tuple[int, int] = 224
    in_chans: int = 3
    num_classes: int = 1000
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an input image."""
        size = self.img_size
        h, w = (size, size) if isinstance(size, int) else size
        return h, w, self.in_chans

    @property
    def dtypes(self) -> dict[str, Any]:
        """The fields `dtype` and `param_dtype` of a layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def table(
        self, name: str, shape: tuple[int, ...], std: float = 0.02
    ) -> Float[Array, "..."]:
        """A learned table in the compute dtype, drawn from a normal distribution."""
        init = nn.initializers.normal(std)
        return self.param(name, init, shape, self.param_dtype).astype(self.dtype)


class PatchModel(ImageModel):
    """An `ImageModel` that cuts images into square patches."""

    patch_size: int = 16

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        h, w, _ = self.image_shape
        return h // self.patch_size, w // self.patch_size
