"""Random left-right flip, and random crop of a padded image to its own size."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.random import example_keys
from vit_jax_tricks.typing import Array, Bool, Int, Integer, Num, PRNGKeyArray


@checked
def random_flips(
    key: PRNGKeyArray, index: Integer[Array, "b"], *, prob: float = 0.5
) -> Bool[Array, "b"]:
    """Draws which images `random_flip` flips."""
    keys = example_keys(key, index)
    return jax.vmap(lambda k: jax.random.bernoulli(k, prob))(keys)


@checked
def random_flip(
    key: PRNGKeyArray,
    images: Num[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    prob: float = 0.5,
) -> Num[Array, "b h w c"]:
    """Flips each image left-right with probability `prob`.

    Each image's draw depends only on (key, its index).
    """
    return flip(images, random_flips(key, index, prob=prob))


def flip(images: Num[Array, "b h w c"], flips: Bool[Array, "b"]) -> jax.Array:
    """Flips the images in `flips` left-right."""
    return jnp.where(flips[:, None, None, None], images[:, :, ::-1], images)


@checked
def random_pad_crop(
    key: PRNGKeyArray,
    images: Num[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    pad: int,
    mode: str = "constant",
) -> Num[Array, "b h w c"]:
    """Shifts each image by -pad..pad pixels along each axis, uniformly.

    The border is black (`mode="constant"`) or a mirror image without the edge pixel
    (`mode="reflect"`). Each image's draw depends only on (key, its index).

    Raises: UserError for an unknown mode, a negative pad, or a mirror border wider than
      the image allows.
    Equal in distribution to torchvision's RandomCrop(size, padding=pad).
    """
    return shift(images, random_shifts(key, index, pad=pad), pad=pad, mode=mode)


def shift(
    images: Num[Array, "b h w c"],
    shifts: Int[Array, "b 2"],
    *,
    pad: int,
    mode: str = "constant",
) -> Num[Array, "b h w c"]:
    """The images of `random_pad_crop` for given shifts of at most `pad` pixels."""
    if mode not in ("constant", "reflect"):
        raise UserError(f'crop mode "{mode}" is unknown: "constant" or "reflect".')
    limit = min(images.shape[1:3])
    if pad < 0 or (mode == "reflect" and pad >= limit):
        raise UserError(f"pad={pad} does not fit {limit}-pixel images in mode {mode}.")
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)

    def crop(place: Array, image: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*place, 0), images.shape[1:])

    return jax.vmap(crop)(pad + shifts, padded)


def random_shifts(
    key: PRNGKeyArray, index: Integer[Array, "b"], *, pad: int
) -> Int[Array, "b 2"]:
    """Source position (y, x) of the first pixel of each `random_pad_crop`."""

    def one(k: PRNGKeyArray) -> Array:
        return jax.random.randint(k, (2,), 0, 2 * pad + 1) - pad

    return jax.vmap(one)(example_keys(key, index))
