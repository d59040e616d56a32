"""Where models drop: the rate of each block and of each dropout, met in training."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from model_goldens import jit_once
from test_regularisers import make

from vit_jax_tricks.models.layers.drop import DropPath
from vit_jax_tricks.models.stack import Plan, run_stack
from vit_jax_tricks.models.stage import Stage


KEY = jax.random.key(3)


def met(model, *, train):
    """The rates of all drop paths (None: nothing drops) and dropouts, in order.

    Nothing is computed.
    """
    paths, dropouts = [], []

    def note(next_fun, args, kwargs, context):
        module = context.module
        if isinstance(module, DropPath):
            paths.append(args[1])
        if isinstance(module, nn.Dropout) and module.rate and not module.deterministic:
            dropouts.append(module.rate)
        return next_fun(*args, **kwargs)

    images = jax.ShapeDtypeStruct((2, *model.image_shape), jnp.float32)
    with nn.intercept_methods(note):
        keys = {"params": KEY, "dropout": KEY}
        jax.eval_shape(partial(model.init, train=train), keys, images)
    return paths, dropouts


# Blocks of one branch and of two, in order: linspace(0, rate, blocks) in timm.
BRANCHES = {
    "deit_tiny_patch16_224": [2, 2],
    "vit_relpos_small_patch16_224": [2, 2],
    "convit_tiny": [2, 2],
    "t2t_vit_14": [2, 2],
    "lvvit_s": [2, 2],
    "swin_tiny_patch4_window7_224": [2, 2, 2],
    "swinv2_tiny_window8_256": [2, 2, 2],
    "coatnet_0_224": [1, 2, 2],
    "volo_d1_224": [2, 2, 2],
}
CONSTANT = {"deit3_small_patch16_224": [2, 2], "cait_xxs24_224": [2, 2]}


@pytest.mark.parametrize("name", BRANCHES | CONSTANT)
def test_each_block_has_its_own_drop_path_rate(name):
    blocks = (BRANCHES | CONSTANT)[name]
    start = 0.6 if name in CONSTANT else 0.0
    model = make(name, drop_path_rate=0.6)
    want = np.repeat(np.linspace(start, 0.6, len(blocks)), blocks)
    found = [rate or 0.0 for rate in met(model, train=True)[0]]
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert set(met(model, train=False)[0]) == {None}


RATES = {"pos_drop_rate": 0.1, "proj_drop_rate": 0.2, "drop_rate": 0.3}
RATES |= {"attn_drop_rate": 0.4}
BLOCK = [0.4, 0.2, 0.2, 0.2]  # attention, its projection, and twice in the MLP


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_patch16_224",
        "eva02_tiny_patch14_224",
        "convit_tiny",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_every_dropout_has_the_rate_of_its_field(name):
    model = make(name, **RATES)
    blocks = 3 if name.startswith("swin") else 2
    assert met(model, train=True)[1] == [0.1, *blocks * BLOCK, 0.3]
    assert met(model, train=False)[1] == []


class Doubles(nn.Module):
    """2 x + drop(1): where a block dropped is read from the digits of the sum."""

    @nn.compact
    def __call__(self, x, drop_path, train, bias=None, rope=None, out_gain=None):
        start = self.param("start", nn.initializers.normal(), (1, 1, 1))
        return 2 * x + DropPath()(jnp.ones_like(x) + 0 * start, drop_path)


class Blocks(nn.Module):
    """Four such blocks, one after another or scanned, with a rate each."""

    kind: str

    @nn.compact
    def __call__(self, x):
        rates, scan = (0.0, 1.0, 0.5, 0.5), self.kind != "unrolled"
        if self.kind == "stage":
            return Stage((Doubles,) * 4, rates, Plan(scan))(x, True)[0]
        return run_stack([Doubles] * 4, x, rates, True, Plan(scan))[0]


@pytest.mark.parametrize("kind", ["unrolled", "scanned", "stage"])
def test_blocks_draw_apart_and_each_at_its_rate(kind):
    """The first adds 1, the second nothing, the others 2 or 0, each by itself."""
    rngs = {"params": KEY, "dropout": jax.random.key(1)}
    x = jnp.zeros((4096, 1, 1))
    out, variables = jit_once(Blocks(kind).init_with_output)(rngs, x)
    digits = np.ravel(out).astype(int) - 8
    assert set(digits) == {0, 2, 4, 6}
    counts = np.bincount(digits // 2)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    starts = [np.ravel(leaf) for leaf in jax.tree.leaves(variables)]
    assert len(np.unique(np.concatenate(starts))) == 4
