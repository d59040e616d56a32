"""Operation counts against the references' and against known programs."""

import jax
import jax.numpy as jnp
import pytest
from goldens import load_golden
from quick import sparse

from vit_jax_tricks.flops import count_flops
from vit_jax_tricks.models import create_model


GOLDENS = {
    "models_full/timm_vit_tiny_patch16_224": "vit_tiny_patch16_224",
    "models_full/timm_deit3_small_patch16_224": "deit3_small_patch16_224",
    "models_full/official_deit_small_distilled_patch16_224": (
        "deit_small_distilled_patch16_224"
    ),
    "models_full/timm_vit_base_patch16_clip_224": "vit_base_patch16_clip_224",
    "models_small/small_vit_nocls": "vit_tiny_patch16_224",
    "models_small/small_vit_reg4_noembedcls": "vit_tiny_patch16_224",
    "models_small/small_deit_distilled": "deit_tiny_distilled_patch16_224",
    "models_small/small_official_deit3_paral2": "deit_small_patch16_LS",
    "models_small/small_official_deit3_hmlp": "deit_small_patch16_LS",
}
EXTRA = {"paral2": {"parallel": 2}, "hmlp": {"stem": "hmlp"}}


def macs_of(model, batch=1):
    images = jax.ShapeDtypeStruct((batch, *model.image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    counted = count_flops(model.apply, variables, images)
    assert counted.notes == ()
    assert counted.flops == 2 * counted.macs
    return counted.macs


@pytest.mark.parametrize("golden", sparse(GOLDENS, every=3))
def test_macs_are_exactly_the_reference_s(golden):
    manifest, _ = load_golden(golden)
    kwargs = {k: v for k, v in manifest["kwargs"].items() if k != "pretrained_cfg"}
    kwargs.setdefault("num_classes", manifest["output_shape"][1])
    kwargs |= EXTRA.get(golden.rsplit("_", 1)[-1], {})
    model = create_model(GOLDENS[golden], **kwargs)
    expected = manifest["macs_one_image"]
    assert macs_of(model) == expected
    assert macs_of(model.clone(scan=True), batch=3) == 3 * expected
    assert macs_of(model.clone(scan=True, remat=True)) == expected


def test_a_gradient_costs_two_products_for_each():
    x = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    w = jax.ShapeDtypeStruct((8, 16), jnp.float32)

    def loss(x, w):
        return (x @ w).sum()

    assert count_flops(loss, x, w).macs == 4 * 8 * 16
    assert count_flops(jax.grad(loss, (0, 1)), x, w).macs == 3 * 4 * 8 * 16


@pytest.mark.parametrize(("groups", "taps"), [(1, 3 * 3 * 8), (8, 3 * 3)])
def test_convolutions_count_their_taps(groups, taps):
    x = jax.ShapeDtypeStruct((2, 6, 6, 8), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 8 // groups, 16), jnp.float32)

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    assert count_flops(conv, x, kernel).macs == 2 * 6 * 6 * 16 * taps


def test_loops_and_branches_say_what_was_assumed():
    w = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    n = jax.ShapeDtypeStruct((), jnp.int32)

    def loop(w, n):
        return jax.lax.while_loop(
            lambda s: s[1] < n, lambda s: (s[0] @ w, s[1] + 1), (w, 0)
        )

    counted = count_flops(loop, w, n)
    assert counted.macs == 8**3
    assert "while" in counted.notes[0]

    def branch(w, n):
        return jax.lax.cond(n > 0, lambda w: w @ w @ w, lambda w: w @ w, w)

    counted = count_flops(branch, w, n)
    assert counted.macs == 2 * 8**3
    assert "cond" in counted.notes[0]

    def fixed(w, n):
        return jax.lax.fori_loop(0, 5, lambda i, s: s @ w, w)

    assert count_flops(fixed, w, n).macs == 5 * 8**3
