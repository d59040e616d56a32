"""Prepares sampled examples as model inputs."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment.pixels import normalize
from vit_jax_tricks.data import Data
from vit_jax_tricks.data.sample import Sample
from vit_jax_tricks.typing import Array, Float, Int


def model_inputs(
    source: Data,
    sample: Sample,
    batch_size: int,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    check: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Float[Array, "b h w c"], Int[Array, "b"]]]:
    """Normalised images with the evaluation view, and their labels, without padding.

    The last batch is smaller if `batch_size` does not divide the sample. `check` is
    called before each batch and may raise to stop.
    """
    prepare = jax.jit(lambda pixels: normalize(pixels, mean, std))
    with source.sample_batches(sample, batch_size) as batches:
        for batch in batches:
            check()
            yield prepare(batch["image"]), jnp.asarray(batch["label"])
