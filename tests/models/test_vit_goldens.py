"""The ViT family against its reference implementations: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import (
    base_normal,
    golden_images,
    load_golden,
    reference_state,
)
from vit_goldens import BASE, FULL, SMALL, jit_once

from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained.export import reference_arrays
from vit_jax_tricks.pretrained.load import load_arrays


def build(golden, name, dtype, **overrides):
    """The model of a golden with its synthetic weights, and its images."""
    manifest, arrays = load_golden(golden)
    kwargs = {k: v for k, v in manifest["kwargs"].items() if k != "pretrained_cfg"}
    kwargs.setdefault("num_classes", manifest["output_shape"][1])
    kwargs |= {"dtype": dtype, "param_dtype": dtype, **overrides}
    model = create_model(name, **kwargs)
    variables, report = load_arrays(model, reference_state(manifest))
    assert not report.reset
    assert not report.unused
    images = jnp.asarray(golden_images(manifest), dtype)
    return model, variables, images, manifest, arrays


def assert_close(actual, expected, atol):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=atol)


def check_values(model, variables, images, arrays, logits, atol):
    outputs, aux = jax.jit(model.apply)(variables, images)
    assert_close(outputs, arrays[logits], atol)
    assert_close(aux["features"], arrays["features"], 2e-5)
    if model.distilled:
        assert_close(aux["features_dist"], arrays["features_head_dist"], 2e-5)


@pytest.mark.parametrize("golden", SMALL)
def test_small_float32_and_the_outputs_of_stem_and_blocks(golden):
    name, extra = SMALL[golden]
    model, variables, images, manifest, arrays = build(
        f"models_small/{golden}", name, "float32", **extra
    )
    names = {trace.replace(".", "_") for trace in manifest["trace_names"]}

    def run(variables, images):
        return model.apply(
            variables,
            images,
            capture_intermediates=lambda module, _: module.name in names,
            mutable=["intermediates"],
        )

    (logits, _), state = jit_once(run)(variables, images)
    for trace in manifest["trace_names"]:
        output = state["intermediates"][trace.replace(".", "_")]["__call__"][0]
        assert_close(output, arrays[f"block:{trace}"], 2e-5)
    assert_close(logits, arrays["logits"], 2e-5)


@pytest.mark.parametrize("golden", SMALL)
def test_small_float64_and_gradients(golden, x64):
    name, extra = SMALL[golden]
    model, variables, images, manifest, arrays = build(
        f"models_small/{golden}", name, "float64", scan=True, **extra
    )
    coef = base_normal(f"coef:{manifest['model']}", manifest["output_shape"])
    coef = jnp.asarray(coef, jnp.float64)

    def loss(params):
        logits, aux = model.apply({**variables, "params": params}, images)
        return (logits * coef).sum(), (logits, aux)

    grads, (logits, aux) = jit_once(jax.grad(loss, has_aux=True))(variables["params"])
    assert_close(logits, arrays["logits64"], 1e-9)
    assert_close(aux["features"], arrays["features"], 2e-5)
    grads = reference_arrays({"params": grads}, name)
    checked = 0
    for row, (norm, dot) in zip(
        manifest["state"], arrays["grad_l2_and_probe"], strict=True
    ):
        key, shape, *_, role = row
        if role != "param":
            continue
        probe = base_normal(f"probe:{key}", shape).astype(np.float64)
        grad = grads[key]
        assert grad.shape == tuple(shape)
        assert_close(np.linalg.norm(grad), norm, 1e-9 * max(norm, 1))
        assert_close((grad * probe).sum(), dot, 1e-9 * max(norm, 1))
        checked += 1
    assert checked == len(grads)


def test_training_returns_both_heads():
    golden = "small_deit_distilled"
    model, variables, images, _, arrays = build(
        f"models_small/{golden}", SMALL[golden][0], "float32"
    )
    logits, aux = model.apply(variables, images, train=True)
    assert_close(logits, arrays["train_logits_cls"], 2e-5)
    assert_close(aux["logits_dist"], arrays["train_logits_dist"], 2e-5)


@pytest.mark.parametrize(
    "golden",
    [
        pytest.param(g, marks=[pytest.mark.slow] if "official_deit_small" in g else [])
        for g in FULL
    ],
)
def test_full_float32(golden):
    model, variables, images, _, arrays = build(
        f"models_full/{golden}", FULL[golden], "float32", scan=True
    )
    check_values(model, variables, images, arrays, "logits", 2e-5)


@pytest.mark.parametrize("golden", [g for g in FULL if "tiny" in g])
def test_full_float64(golden, x64):
    model, variables, images, _, arrays = build(
        f"models_full/{golden}", FULL[golden], "float64", scan=True
    )
    check_values(model, variables, images, arrays, "logits64", 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("golden", [*(g for g in FULL if "tiny" not in g), *BASE])
def test_larger_float64(golden, x64):
    model, variables, images, _, arrays = build(
        f"models_full/{golden}", (FULL | BASE)[golden], "float64", scan=True
    )
    check_values(model, variables, images, arrays, "logits64", 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("golden", BASE)
def test_base_float32(golden):
    model, variables, images, _, arrays = build(
        f"models_full/{golden}", BASE[golden], "float32", scan=True
    )
    check_values(model, variables, images, arrays, "logits", 2e-5)
