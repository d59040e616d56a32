"""Exports a model as StableHLO: one file for CPU, GPU and TPU, for any batch size."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export.float32 import exportable


PLATFORMS = ("cpu", "cuda", "tpu")
SEAL = b"vit_jax_tricks sha256:"  # precedes the digest of everything before it


def to_stablehlo(
    model: nn.Module,
    variables: Mapping[str, Any],
    image_shape: Sequence[int] | None = None,
) -> bytes:
    """Exports the logits of `model.apply(variables, images, train=False)` in float32.

    The weights are inside; `images` [batch, h, w, c] are normalised, of `image_shape`
    (h, w, c), by default the model's. `load` reads the file, as does
    `jax.export.deserialize`, which ignores the checksum at the end.

    Raises: UserError for a quantised model, and images that the model does not take.

    >>> import jax
    >>> from vit_jax_tricks import create_model, export
    >>> sizes = dict(img_size=32, embed_dim=48, depth=1, num_heads=3, num_classes=10)
    >>> model = create_model("deit_tiny_patch16_224", **sizes)
    >>> images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    >>> variables = model.init(jax.random.key(1), images)
    >>> content = export.to_stablehlo(model, variables)
    >>> logits = export.load(content)(images)
    >>> logits.shape
    (4, 10)
    """
    model, variables = exportable("to_stablehlo", model, variables)
    shape = model.image_shape if image_shape is None else image_shape

    def logits(images: Any) -> Any:
        return model.apply(variables, images, train=False)[0]

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    exported = jax.export.export(jax.jit(logits), platforms=PLATFORMS)(images)
    content = bytes(exported.serialize())
    return content + SEAL + hashlib.sha256(content).digest()


def load(content: bytes) -> Callable[[Any], Any]:
    """Loads a file of `to_stablehlo` as a function from images to logits.

    Raises: UserError if it is not such a file, or damaged.
    """
    content, seal, digest = bytes(content).rpartition(SEAL)
    if not seal:
        raise UserError(
            "no complete StableHLO file of vit_jax_tricks.export; export the model, or "
            "copy the file, again."
        )
    if hashlib.sha256(content).digest() != digest:
        raise UserError(
            "the StableHLO file is damaged (its checksum differs); copy it again."
        )
    return jax.jit(jax.export.deserialize(bytearray(content)).call)
