"""Sizes of multi-scale training: balanced, and a function of (seed, step)."""

import numpy as np
import pytest

from vit_jax_tricks.augment import training_size
from vit_jax_tricks.errors import UserError


SIZES = (160, 192, 224)


def test_each_size_equally_often_and_for_a_while():
    sizes = [training_size(step, SIZES, every=4, seed=2) for step in range(120)]
    blocks = np.array(sizes).reshape(10, 3, 4)
    assert (blocks == blocks[..., :1]).all()
    for round_ in blocks[..., 0]:
        assert sorted(round_) == list(SIZES)
    assert len({tuple(round_) for round_ in blocks[..., 0]}) > 2
    assert sizes[57] == training_size(57, SIZES, every=4, seed=2)
    other = [training_size(step, SIZES, every=4, seed=3) for step in range(120)]
    assert other != sizes
    assert all(training_size(step, (96,)) == 96 for step in range(5))


@pytest.mark.parametrize("options", [dict(sizes=()), dict(sizes=SIZES, every=0)])
def test_mistakes(options):
    with pytest.raises(UserError, match="expected a size and every >= 1"):
        training_size(0, **options)
