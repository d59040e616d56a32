"""Hooks between blocks: in every family, and equal to the same done by hand."""

import dataclasses
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_goldens import jit_once
from small_models import apply, fill

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model, stack_blocks
from vit_jax_tricks.models.stack import take_tokens


VIT = ("deit_tiny_patch16_224", dict(patch_size=8, embed_dim=24, depth=3, num_heads=3))
LVVIT = ("lvvit_t", dict(embed_dim=24, depth=3, num_heads=3))
SWIN = (
    "swin_tiny_patch4_window7_224",
    dict(embed_dim=12, depths=(2, 2), num_heads=(1, 2), window_size=4),
)
FAMILIES = {
    "deit_tiny_distilled_patch16_224": VIT[1],
    "vit_relpos_small_patch16_224": VIT[1],
    "beit_base_patch16_224": VIT[1],
    "eva02_tiny_patch14_224": VIT[1],
    "t2t_vit_7": dict(embed_dim=24, depth=3, num_heads=3),
    "convit_tiny": dict(patch_size=8, depth=4, local_up_to_layer=2),
    "cait_xxs24_224": dict(patch_size=8, depth=2),
    "coatnet_0_224": dict(depths=(1, 2, 3, 2), embed_dim=(8, 8, 32, 32)),
    "volo_d1_224": dict(layers=(2, 2, 1, 1), num_heads=(2,) * 4, embed_dims=(24,) * 4),
    "swinv2_tiny_window8_256": SWIN[1],
}
FAMILIES |= dict([VIT, LVVIT, SWIN])
IMAGES = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)
HIDDEN = -1e9


def with_key_bias(inputs, bias):
    return inputs._replace(shared={**inputs.shared, "key_bias": bias})


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Notes each block that it runs before, and counts them in what it carries."""

    before: tuple[int, ...]
    seen: list = dataclasses.field(default_factory=list, compare=False)

    def __call__(self, x, inputs, *, block, train):
        count = inputs.carry.get("count", 0)
        self.seen.append((block, count))
        return x, inputs._replace(carry={"count": count + 1})


@dataclasses.dataclass(frozen=True)
class Drop:
    """Drops tokens, or hides them as keys, so that the others do not see them."""

    index: tuple[int, ...]
    before: tuple[int, ...] = (1,)
    hide: bool = False

    def __call__(self, x, inputs, *, block, train):
        if not self.hide:
            index = jnp.broadcast_to(jnp.asarray(self.index), (len(x), len(self.index)))
            return take_tokens(x, inputs, index)
        kept = jnp.zeros(x.shape[1], bool).at[jnp.asarray(self.index)].set(True)
        bias = jnp.broadcast_to(jnp.where(kept, 0.0, HIDDEN), x.shape[:2])
        return x, with_key_bias(inputs, bias)


@dataclasses.dataclass(frozen=True)
class Score:
    """A predictor with parameters of its own, as DynamicViT's: scales the tokens."""

    before: tuple[int, ...]

    def __call__(self, x, inputs, *, block, train):
        score = nn.Dense(1, name=f"predictor_{block}")(x)
        return x * nn.sigmoid(score), inputs


@dataclasses.dataclass(frozen=True)
class Blank:
    """Changes one place of a map, and hides it as a key or not."""

    noise: float
    hide: bool
    before: tuple[int, ...] = (2,)

    def __call__(self, x, inputs, *, block, train):
        x = x.at[:, 1, 2, 0].add(self.noise)
        if self.hide:
            bias = jnp.zeros(x.shape[:3]).at[:, 1, 2].set(HIDDEN)
            inputs = with_key_bias(inputs, bias)
        return x, inputs


def make(family, hooks=(), **more) -> Any:
    name, fields = family
    sizes = dict(img_size=32, num_classes=5) | fields
    if name.startswith("eva"):
        sizes |= dict(img_size=28, patch_size=7)
    return create_model(name, **sizes, hooks=hooks, **more)


QUICK = ("convit_tiny", "lvvit_t", "swin_tiny_patch4_window7_224")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in FAMILIES],
)
def test_hooks_run_before_every_block(name):
    """Also before scanned ones, of which each part has its own scan."""
    model = make((name, FAMILIES[name]), scan=True)
    count = len(model.blocks())
    hook = Recorder(tuple(range(count)))
    images = jax.ShapeDtypeStruct((2, *model.image_shape), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    hooked = model.clone(hooks=(hook,))
    logits, _ = jax.eval_shape(hooked.apply, shapes, images)
    assert hook.seen == [(i, i) for i in range(count)]
    assert logits.shape == (2, 5)


@pytest.mark.parametrize("family", [VIT, LVVIT], ids=["vit", "lvvit"])
def test_dropped_tokens_are_gone(family):
    """Equal to blocks that get fewer tokens by hand, and to hidden keys."""
    index = (0, 2, 4)
    more = {"return_dense": False, "mix_token": False} if family is LVVIT else {}
    plain = make(family, **more)
    variables = fill(plain, IMAGES)

    def by_hand(next_fun, args, kwargs, context):
        if context.module.path == ("blocks_1",) and context.method_name == "__call__":
            args = (args[0][:, jnp.asarray(index)], *args[1:])
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(by_hand):
        want, aux = jit_once(plain.apply)(variables, IMAGES)
    assert aux["tokens"].shape[1] == len(index)
    for hide in (False, True):
        hooked = make(family, hooks=(Drop(index, hide=hide),), **more)
        got = apply(hooked, variables, IMAGES)[0]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions", ["shared", "by block"])
def test_rotary_tables_follow_the_tokens(positions):
    name = "eva02_tiny_patch14_224"
    more = {"global_pool": "token"}
    if positions == "by block":
        more["rope_type"] = "mixed"
    index = (0, 2, 5, 9, 11)
    images = np.resize(IMAGES, (2, 28, 28, 3))
    dropped, hidden = (
        make((name, VIT[1]), hooks=(Drop(index, hide=hide),), **more)
        for hide in (False, True)
    )
    variables = fill(dropped, images)
    got, want = (apply(model, variables, images)[0] for model in (dropped, hidden))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", [SWIN[0], pytest.param("swinv2_tiny_window8_256", marks=pytest.mark.slow)]
)
def test_a_hidden_place_of_a_map_is_not_seen(name):
    variables = fill(make((name, SWIN[1])), IMAGES)

    @jit_once
    def outputs(variables):
        found = {}
        for hide in (False, True):
            for noise in (0.0, 3.0):
                model = make((name, SWIN[1]), hooks=(Blank(noise, hide),))
                found[hide, noise] = model.apply(variables, IMAGES)[1]["tokens"]
        return found

    tokens = outputs(variables)
    others = np.arange(16) != 1 * 4 + 2
    seen, unseen = (
        np.abs(tokens[hide, 0.0] - tokens[hide, 3.0])[:, others].max()
        for hide in (False, True)
    )
    assert unseen < 1e-5 < 1e-3 < seen


@pytest.mark.parametrize(
    "family", [VIT, pytest.param(SWIN, marks=pytest.mark.slow)], ids=["vit", "swin"]
)
def test_scan_and_remat_change_nothing(family):
    """With parameters of hooks, and with gradients."""
    hooks = (Score((1, 3) if family is SWIN else (1, 2)),)
    plain = make(family, hooks=hooks)
    variables = fill(plain, IMAGES)
    stacked = {"params": stack_blocks(variables["params"])}
    names = {str(path) for path, _ in jax.tree.leaves_with_path(variables)}
    assert sum("predictor" in name for name in names) == 4

    def loss(variables, model):
        return jnp.square(model.apply(variables, IMAGES)[0]).sum()

    @jit_once
    def gradients(variables, stacked):
        both = make(family, hooks=hooks, scan=True, remat=True)
        one = jax.value_and_grad(loss)(variables, plain)
        return one, jax.value_and_grad(loss)(stacked, both)

    (want, grad), (got, stacked_grad) = gradients(variables, stacked)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    grad = {"params": stack_blocks(grad["params"])}
    chex.assert_trees_all_close(stacked_grad, grad, rtol=1e-3, atol=1e-4)
    chex.assert_tree_all_finite(grad)


@pytest.mark.parametrize(
    ("hooks", "part"),
    [
        ((Drop((0,), before=(3,)),), "names block 3"),
        ((lambda x: x,), "is no hook"),
    ],
)
def test_a_hook_that_would_not_run_is_refused(hooks, part):
    with pytest.raises(UserError, match=part):
        make(VIT, hooks=hooks)


@dataclasses.dataclass(frozen=True)
class Decay:
    """A bias of its own for each block, which grows with the distance of two tokens."""

    before: tuple[int, ...] = (0,)

    def __call__(self, x, inputs, *, block, train):
        places = jnp.arange(x.shape[1], dtype=x.dtype)
        far = jnp.abs(places[:, None] - places[None])[None, None]
        slopes = jnp.asarray([0.5, 0.0, 0.1])
        bias = -slopes[:, None, None, None, None] * far[None]
        return x, inputs._replace(each={**inputs.each, "bias": bias})


def test_each_block_gets_its_own_bias_and_dropped_tokens_lose_theirs():
    index = (0, 2, 4, 9)
    plain = make(VIT)
    variables = fill(plain, IMAGES)
    stacked = {"params": stack_blocks(variables["params"])}
    logits = {}
    for hide in (False, True):
        hooks = (Decay(), Drop(index, before=(2,), hide=hide))
        logits[hide] = apply(make(VIT, hooks=hooks), variables, IMAGES)[0]
    scanned = make(VIT, hooks=(Decay(), Drop(index, before=(2,))), scan=True)
    np.testing.assert_allclose(logits[True], logits[False], rtol=1e-5, atol=1e-5)
    got = apply(scanned, stacked, IMAGES)[0]
    np.testing.assert_allclose(got, logits[False], rtol=1e-5, atol=1e-5)
    unbiased = apply(make(VIT, hooks=(Drop(index, before=(2,)),)), variables, IMAGES)[0]
    assert np.abs(unbiased - logits[False]).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cait_xxs24_224", "TalkingHeadsAttention takes no bias"),
        ("convit_tiny", "GatedPositionalAttention takes no bias"),
        ("volo_d1_224", "Outlooker takes no key_bias"),
    ],
)
def test_a_block_refuses_an_input_that_it_does_not_take(name, words):
    model = make((name, FAMILIES[name]), hooks=(Drop((0,), hide=True),))
    with pytest.raises(UserError, match=words):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)


def test_maps_of_volo_stay_whole():
    model = make(("volo_d1_224", FAMILIES["volo_d1_224"]), hooks=(Drop((0,), (2,)),))
    with pytest.raises(UserError, match="need whole maps"):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)


def test_parts_of_a_scan_write_no_collection():
    model = make(VIT, hooks=(Drop((0, 1)),), scan=True)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    with pytest.raises(UserError, match="scan=False"):
        jax.eval_shape(
            lambda v: model.apply(v, IMAGES, mutable=["intermediates"]), variables
        )
