"""A model as StableHLO: one file for CPU, GPU and TPU, for any number of images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export.float32 import in_float32


PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(
    model: nn.Module, variables: Mapping[str, Any], image_shape: Sequence[int]
) -> bytes:
    """The logits of `model.apply(variables, images, train=False)` in float32.

    The weights are inside; `images` [batch, h, w, c] are normalised. `load` reads it.
    """
    model, variables = in_float32(model, variables)

    def logits(images: Any) -> Any:
        return model.apply(variables, images, train=False)[0]

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    exported = jax.export.export(jax.jit(logits), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())


def load(content: bytes) -> Callable[[Any], Any]:
    """The function in a file of `to_stablehlo`: images to logits.

    Raises: UserError when it is no such file.
    """
    try:
        exported = jax.export.deserialize(bytearray(content))
    except Exception as error:  # flatbuffers has no errors of its own
        raise UserError("no StableHLO file of jax.export.") from error
    return jax.jit(exported.call)
