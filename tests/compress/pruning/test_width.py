"""A narrower residual stream: the model whose norms see the kept channels alone."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pruned_models
import pytest
from model_goldens import jit_once
from small_models import fill

from vit_jax_tricks import compress
from vit_jax_tricks.compress.pruning.costs import model_macs
from vit_jax_tricks.compress.pruning.width import keep_channels
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.norm import LayerNorm


def setting(family, **fields):
    model = pruned_models.create(family, **fields)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, *model.image_shape)), jnp.float32)
    return model, fill(model, x), x


def masked(model, variables, x, channels):
    """The full model with zeroed channels, its norms over the others alone."""
    kept = jnp.asarray(channels)
    width = model.embed_dim

    def norm(next_fun, args, kwargs, context):
        module = context.module
        wide = args and hasattr(args[0], "shape") and args[0].shape[-1] == width
        if isinstance(module, LayerNorm) and wide:
            scale, bias = (module.get_variable("params", n) for n in ("scale", "bias"))
            cut = (a[..., kept] for a in (args[0], scale, bias))
            y = functional.layer_norm(*cut, eps=module.eps)
            return jnp.zeros_like(args[0]).at[..., kept].set(y)
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(norm):
        return model.apply(variables, x)[0]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit", "lv_vit"])
def test_it_is_the_model_of_the_kept_channels(family):
    model, variables, x = setting(family)
    labels = jnp.arange(4)
    got = compress.prune(model, variables, [(x, labels)], flops=1.0, width=0.67)
    assert len(got.channels) == got.model.embed_dim == 16
    assert got.model.num_heads == model.num_heads == 3
    shapes = jax.eval_shape(got.model.init, jax.random.key(0), x)
    chex.assert_trees_all_equal_shapes(got.variables, shapes)
    ours = jit_once(got.model.apply)(got.variables, x)[0]

    def full(variables, x):
        return masked(model, variables, x, got.channels)

    chex.assert_trees_all_close(ours, jit_once(full)(variables, x), atol=2e-5, rtol=0)
    assert got.macs == model_macs(got.model) < got.full_macs


def test_channels_of_most_variance_stay():
    model, variables, x = setting("vit")
    embed = variables["params"]["patch_embed"]["proj"]
    loud = jnp.zeros(24).at[jnp.asarray([1, 5, 7, 8, 11, 13, 17, 23])].set(100.0)
    embed["kernel"] = embed["kernel"] * (1 + loud)[None, None, None]
    narrow, kept = keep_channels(model, variables, [(x, jnp.arange(4))], 0.33)
    assert kept == (1, 5, 7, 8, 11, 13, 17, 23)
    assert narrow.head_dim == 8
    assert narrow.block_hidden == (96,) * 3


@pytest.mark.slow
def test_with_heads_and_hidden_units_to_a_budget():
    model, variables, x = setting("vit")
    batch = [(x, jnp.arange(4))]
    got = compress.prune(model, variables, batch, flops=0.5, width=0.67)
    assert got.macs <= 0.5 * got.full_macs
    again = create_model(
        "vit_tiny_patch16_224",
        5,
        **pruned_models.SMALL["vit"][1]
        | {
            "embed_dim": 16,
            "head_dim": 8,
            "block_heads": got.model.block_heads,
            "block_hidden": got.model.block_hidden,
        },
    )
    assert again == got.model
    assert bool(jnp.isfinite(jit_once(again.apply)(got.variables, x)[0]).all())


def test_what_does_not_fit():
    for family, fields, message in (
        ("swin", {}, "ties its width to stages"),
        ("convit", {}, "ties its width to stages, heads"),
        ("t2t_vit", {}, "fixed positions"),
        ("vit", {"pos_embed": "sincos2d"}, "computed from the width"),
        ("vit", {"global_pool": "map"}, "cuts the width into heads"),
    ):
        model = pruned_models.create(family, **fields)
        with pytest.raises(UserError, match=message):
            keep_channels(model, {}, [], 0.5)
    with pytest.raises(UserError, match=r"width=0.0: the fraction"):
        keep_channels(pruned_models.create("vit"), {}, [], 0.0)
    with pytest.raises(UserError, match="head_dim=-1 is too small"):
        pruned_models.create("vit", head_dim=-1)
