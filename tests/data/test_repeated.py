"""Repeated augmentation: the order of DeiT's sampler, in memory and through Grain."""

import itertools

import numpy as np
import pytest

from vit_jax_tricks.data import build
from vit_jax_tricks.data.memory import stream_rows
from vit_jax_tricks.data.repeated import epoch_length
from vit_jax_tricks.errors import UserError


def sampler(order, repeats, processes, rank):
    """DeiT's RASampler as it is described: repeat, take turns, stop early."""
    turns = np.repeat(order, repeats)[rank::processes]
    return turns[: len(order) // 256 * 256 // processes]


@pytest.mark.parametrize("processes", [1, 4, 8])
def test_batches_are_those_of_all_processes(processes):
    count, batch, repeats, seed = 1000, 64, 3, 5
    assert epoch_length(count, repeats) == 768
    for epoch in (0, 1):
        order = np.random.default_rng((seed, epoch)).permutation(count)
        parts = [sampler(order, repeats, processes, r) for r in range(processes)]
        for step in range(768 // batch):
            ours = stream_rows(count, batch, seed, epoch * 12 + step, repeats)
            each = batch // processes
            theirs = [part[step * each : (step + 1) * each] for part in parts]
            np.testing.assert_array_equal(
                np.sort(ours % count), np.sort(np.concatenate(theirs))
            )


def test_no_repeats_see_every_example():
    rows = np.concatenate([stream_rows(300, 100, 0, step) for step in range(3)])
    np.testing.assert_array_equal(np.sort(rows), np.arange(300))


@pytest.mark.parametrize("in_memory", [True, False])
def test_copies_come_in_a_row_with_indices_of_their_own(data_dir, in_memory):
    data = build("digits", data_dir=data_dir, in_memory=in_memory, repeats=3)
    with data.train_batches(12, seed=1) as batches:
        taken = list(itertools.islice(batches, 125))  # an epoch has 106.7 batches
    n = data.num_train
    for batch in taken[:100]:
        triples = batch["index"].reshape(4, 3)
        np.testing.assert_array_equal(triples // n, [[0, 1, 2]] * 4)
        assert (triples % n == triples[:, :1]).all()
        images = batch["image"].reshape(4, 3, -1)
        assert (images == images[:, :1]).all()
        assert (np.diff(batch["label"].reshape(4, 3)) == 0).all()
    index = np.concatenate([batch["index"] for batch in taken])
    assert epoch_length(n, 3) == 1280
    first, second = index[:1280], index[1280:]
    assert len(np.unique(first % n)) == 427  # 1280 = 426 * 3 + 2
    assert not np.array_equal(second % n, first[: len(second)] % n)
    with data.train_batches(12, seed=1, start_step=105) as batches:
        resumed = list(itertools.islice(batches, 3))
    for batch, same in zip(taken[105:108], resumed, strict=True):
        for key in batch:
            np.testing.assert_array_equal(batch[key], same[key])


def test_mistakes(data_dir):
    with pytest.raises(UserError, match=r"config\.data\.repeats=0"):
        build("digits", data_dir=data_dir, repeats=0)
