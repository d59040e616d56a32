"""Batches of a data set as a model takes them."""

import functools
from collections.abc import Iterator

import jax
from jax.sharding import NamedSharding

from vit_jax_tricks.augment.pixels import normalize
from vit_jax_tricks.data import Data
from vit_jax_tricks.data.sample import Sample
from vit_jax_tricks.runs.progress import Progress, silent
from vit_jax_tricks.typing import Array


_normalize = functools.partial(jax.jit, static_argnames=("mean", "std"))(normalize)


def model_inputs(
    source: Data,
    examples: Sample | str,
    *,
    batch_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    sharding: NamedSharding | None = None,
    progress: Progress = silent,
) -> Iterator[dict[str, Array]]:
    """Yields normalised images with the evaluation view, and their labels.

    Args:
      source: the data.
      examples: a sample, or a split: "test" or "train", every example once, in order.
      batch_size: number of examples. The last batch of a sample may be smaller; that of
        a split is padded.
      mean, std: the model's normalisation.
      sharding: places the batches; by default they are on the first device.
      progress: called with the number of batches done and of all batches, before each
        batch and at the end; may raise to stop.

    Yields:
      image float32 [b, h, w, c], label and index int32 [b], as in `Data`; for a split,
        mask float32 [b]: 1 for an example, 0 for padding.
    """
    if isinstance(examples, Sample):
        count, ready = len(examples), source.sample_batches(examples, batch_size)
    else:
        count = source.num_train if examples == "train" else source.num_test
        ready = source.test_batches(batch_size, examples)
    total = -(-count // batch_size)
    with ready as batches:
        for done, batch in enumerate(batches):
            progress(done, total)
            placed = jax.device_put(batch, sharding)
            yield placed | {"image": _normalize(placed["image"], mean=mean, std=std)}
    progress(total, total)
