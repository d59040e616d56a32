"""Selection: by hand, to the budget, and never beneath what must stay."""

import numpy as np
import pytest

from vit_jax_tricks.compress.pruning.groups import Group
from vit_jax_tricks.compress.pruning.select import select
from vit_jax_tricks.errors import UserError


def groups(**sizes):
    """Groups `a` and on; those called h... are heads."""
    kinds = {name: "heads" if name[0] == "h" else "hidden" for name in sizes}
    return {
        name: Group(name, kinds[name], size, f"{name}/proj", {})
        for name, size in sizes.items()
    }


def run(scores, costs, excess, **options):
    scores = {name: np.asarray(s, float) for name, s in scores.items()}
    every = groups(**{name: len(s) for name, s in scores.items()})
    given = dict(relative=False, min_hidden=1, multiple=1) | options
    return select(every, scores, costs, excess=excess, **given)


def test_by_importance_per_mac():
    """A head of 10 MACs counts as much as ten units of the same score each."""
    scores = {"h": [10.0, 30.0, 2.0], "m": [0.5, 3.0, 0.1, 1.5]}
    costs = {"h": 10, "m": 1}
    assert run(scores, costs, 1) == {"h": (0, 1, 2), "m": (0, 1, 3)}
    assert run(scores, costs, 11) == {"h": (0, 1), "m": (0, 1, 3)}
    assert run(scores, costs, 12) == {"h": (0, 1), "m": (1, 3)}
    assert run(scores, costs, 0) == {"h": (0, 1, 2), "m": (0, 1, 2, 3)}


def test_what_fits_is_put_back():
    """After a dear head cheap units before it need not go."""
    scores = {"h": [1.0, 30.0], "m": [0.01, 0.02, 5.0]}
    got = run(scores, {"h": 10, "m": 1}, 3)
    assert got == {"h": (1,), "m": (0, 1, 2)}


def test_relative_scores_know_no_scale():
    rng = np.random.default_rng(0)
    scores = {"h0": rng.random(8), "h1": rng.random(8), "m": rng.random(64)}
    costs = {"h0": 40, "h1": 40, "m": 8}
    scales = {"h0": 1e3, "h1": 1e-3, "m": 7.0}
    scaled = {name: s * scales[name] for name, s in scores.items()}
    options = dict(relative=True, multiple=8, min_hidden=8)
    assert run(scores, costs, 300, **options) == run(scaled, costs, 300, **options)


@pytest.mark.parametrize("size", [64, 61])
def test_lots_leave_multiples(size):
    rng = np.random.default_rng(0)
    for excess in range(1, size - 8):
        got = run({"m": rng.random(size)}, {"m": 1}, excess, multiple=8, min_hidden=8)
        assert len(got["m"]) % 8 == 0
        assert size - len(got["m"]) >= excess
        assert len(got["m"]) >= 8


def test_what_must_stay():
    scores = {"h": [1.0, 1.0, 1.0], "m": [0.0] * 24}
    costs = {"h": 100, "m": 1}
    got = run(scores, costs, 200, min_heads=1, min_hidden=9, multiple=8)
    assert (len(got["h"]), len(got["m"])) == (1, 24)
    got = run(scores, costs, 208, min_heads=1, min_hidden=9, multiple=8)
    assert (len(got["h"]), len(got["m"])) == (1, 16)
    got = run(scores, costs, 300, min_heads=0)
    assert (got["h"], len(got["m"])) == ((), 24)
    with pytest.raises(UserError, match="the budget is out of reach"):
        run(scores, costs, 209, min_heads=1, min_hidden=9, multiple=8)


@pytest.mark.parametrize("seed", range(5))
def test_within_a_group_the_least_go(seed):
    rng = np.random.default_rng(seed)
    scores = {f"h{i}": rng.random(6) for i in range(4)}
    scores |= {f"m{i}": rng.random(40) for i in range(4)}
    costs = {name: 50 if name[0] == "h" else 4 for name in scores}
    total = sum(len(s) * costs[name] for name, s in scores.items())
    for relative in (False, True):
        got = run(scores, costs, total // 2, relative=relative, multiple=8)
        left = sum(len(kept) * costs[name] for name, kept in got.items())
        assert total // 2 - 50 < left <= total - total // 2
        for name, kept in got.items():
            gone = sorted(set(range(len(scores[name]))) - set(kept))
            if gone:
                assert scores[name][gone].max() <= scores[name][list(kept)].min()


def test_groups_of_zero_scores():
    got = run({"h": [0.0, 0.0], "m": [0.0] * 4}, {"h": 2, "m": 1}, 2, relative=True)
    assert sum(map(len, got.values())) in (4, 5)
