"""Traces how a training step moves its images, so that their labels can follow.

Draws depend only on (key, index). They are repeated here at almost no cost, and equal
the draws of the images (tested).
"""

from collections.abc import Callable, Iterator

import jax.numpy as jnp

from vit_jax_tricks.augment import parse, policy
from vit_jax_tricks.augment.affine import random_affine_matrix
from vit_jax_tricks.augment.crop import random_shifts
from vit_jax_tricks.augment.flip import random_flips
from vit_jax_tricks.augment.geometry import Geometry, identity_geometry
from vit_jax_tricks.augment.operations import operation_matrix
from vit_jax_tricks.augment.set_crop import crop_as_set
from vit_jax_tricks.augment.settings import Settings
from vit_jax_tricks.augment.warp import translate_matrix
from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.random import example_keys, fold_in_str
from vit_jax_tricks.typing import Array, Float, Integer, PRNGKeyArray


Trace = Callable[[PRNGKeyArray, Array, tuple[int, int]], Geometry]


@checked
def traced(
    settings: Settings,
    key: PRNGKeyArray,
    index: Integer[Array, "b"],
    size: tuple[int, int],
) -> Geometry:
    """The geometry that `Stack.augment(key, images, index)` gives images of `size`.

    Several warps of an image are composed into one. A position that the first warp
    brings in from outside the image is then not marked as unknown.

    Raises: UserError for AugMix, which overlays differently warped images.
    """
    if settings.auto_augment.startswith("augmix"):
        raise UserError(
            f"config.augment.auto_augment={settings.auto_augment}: token labels "
            "cannot follow AugMix; use another policy, such as rand-m9-mstd0.5-inc1."
        )
    batch = len(index)
    geometry = identity_geometry(batch, size)
    if settings.crop != "none":
        blank = jnp.zeros((batch, *size, 1))  # its pixels are never computed
        at = fold_in_str(key, "box")
        geometry = crop_as_set(settings, at, blank, index)[1]
    if settings.flip:
        flips = random_flips(fold_in_str(key, "flip"), index)
        geometry = geometry.replace(flip=flips)
    affine = geometry.affine.astype(jnp.float32)
    for matrix in _warps(settings, key, index, size):
        affine = _after(affine, matrix.astype(jnp.float32))
    return geometry.replace(affine=affine)


def _warps(
    s: Settings, key: PRNGKeyArray, index: Integer[Array, "b"], size: tuple[int, int]
) -> Iterator[Float[Array, "b 6"]]:
    """The matrices, in the order in which images are warped."""
    if s.auto_augment != "none":
        law = parse.parse_policy(s.auto_augment)
        keys = example_keys(fold_in_str(key, "policy"), index)
        op, amount = policy.draw(law, keys, size)
        for slot in range(law.slots):
            yield operation_matrix(op[:, slot], amount[:, slot], size)
    if s.warps:
        at = fold_in_str(key, "affine")
        yield random_affine_matrix(at, index, size, **s.warps)
    if s.pad:
        shifts = random_shifts(fold_in_str(key, "crop"), index, pad=s.pad)
        y, x = shifts.astype(jnp.float32).T
        yield translate_matrix(x, y)


def _after(
    first: Float[Array, "b 6"], second: Float[Array, "b 6"]
) -> Float[Array, "b 6"]:
    """Composes two warps into one matrix; each maps its output to its input."""

    def square(matrix: Array) -> Array:
        rows = matrix.reshape(-1, 2, 3)
        last = jnp.broadcast_to(jnp.array([0, 0, 1], matrix.dtype), (len(rows), 1, 3))
        return jnp.concatenate([rows, last], axis=1)

    product = jnp.matmul(square(first), square(second), precision="highest")
    return product[:, :2].reshape(-1, 6)
