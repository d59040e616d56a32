"""Repeated augmentation: each example occurs several times in a row, with fresh draws.

Source: Hoffer et al., 2019, arXiv:1901.09335. The order is that of DeiT's RASampler,
whose processes take turns, so that their joint batch holds all copies of an example.
"""

import numpy as np

from vit_jax_tricks.typing import Int


ROUND = 256


def epoch_length(count: int, repeats: int) -> int:
    """Examples in an epoch: as many as without repeats, in whole 256s if possible.

    Only about one in `repeats` of the examples is seen.
    """
    return count if repeats == 1 or count < ROUND else count // ROUND * ROUND


def repeated_places(
    place: Int[np.ndarray, "b"], count: int, repeats: int
) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "b"], Int[np.ndarray, "b"]]:
    """Epoch, position in its order, and copy at a position of the endless stream."""
    epoch, inside = np.divmod(place, epoch_length(count, repeats))
    return epoch, *np.divmod(inside, repeats)
