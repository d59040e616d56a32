"""Multi-scale training: which image size a step has."""

from collections.abc import Sequence

import numpy as np

from vit_jax_tricks.errors import UserError


def training_size(
    step: int, sizes: Sequence[int], *, every: int = 1, seed: int = 0
) -> int:
    """The size of `step`: random, kept for `every` steps, each equally often.

    Sizes come in one random order after the other, so `len(sizes) * every` steps hold
    each size `every` times; a function of (seed, step) alone. Each size is one compiled
    program.

    Raises:
      UserError: No sizes, or `every` below 1.
    """
    if not sizes or every < 1:
        raise UserError(
            f"sizes={list(sizes)}, every={every}: expected a size and every >= 1."
        )
    round_, place = divmod(step // every, len(sizes))
    return int(np.random.default_rng((seed, round_)).permutation(list(sizes))[place])
