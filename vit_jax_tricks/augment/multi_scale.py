"""Multi-scale training: the image size of each training step."""

from collections.abc import Sequence

import numpy as np

from vit_jax_tricks.errors import UserError


def training_size(
    step: int, sizes: Sequence[int], *, every: int = 1, seed: int = 0
) -> int:
    """Image size of `step`: random, held for `every` steps, each equally often.

    Sizes are drawn in one random permutation after another, so `len(sizes) * every`
    steps use each size `every` times. The result depends only on (seed, step). Each
    size is compiled separately.

    Raises:
      UserError: no sizes, or `every` below 1.
    """
    if not sizes or every < 1:
        raise UserError(
            f"sizes={list(sizes)}, every={every}: expected a size and every >= 1."
        )
    round_, place = divmod(step // every, len(sizes))
    return int(np.random.default_rng((seed, round_)).permutation(list(sizes))[place])
