"""Every model against its reference implementation: values, gradients, counts."""

import jax
import numpy as np
import pytest
import zoo
from goldens import golden_state, load_golden, reference_state
from model_goldens import (
    assert_close,
    check_gradients,
    check_modules,
    check_values,
    macs,
)
from quick import sparse
from safetensors.numpy import load_file, save_file

from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained import export_weights, load_pretrained


# One model of each family in the quick suite, all of them in the slow one.
SOME = [
    pytest.param(case, marks=[] if case in zoo.ONE_EACH else [pytest.mark.slow])
    for case in zoo.SMALL
]


def scanned(case):
    """The scanned form, where a family has one: its numbers must be the same."""
    return {"scan": True} if hasattr(create_model(case.name), "scan") else {}


@pytest.mark.parametrize("case", SOME, ids=str)
def test_small_float32_and_the_outputs_of_its_modules(case):
    check_modules(case)


@pytest.mark.parametrize("case", sparse(SOME, every=6), ids=str)
def test_small_float64_and_gradients(case, x64):
    check_gradients(case, **scanned(case))


@pytest.mark.parametrize("case", sparse(SOME, every=6), ids=str)
def test_small_macs_and_weights_in_and_out(case, tmp_path):
    """Through files: what `export_weights` writes is what `load_pretrained` read."""
    manifest, _ = load_golden(case.golden)
    model = case.create("float32", manifest, **scanned(case))
    state = golden_state(case.golden)
    save_file(state, tmp_path / "in.safetensors")
    variables, report = load_pretrained(model, tmp_path / "in.safetensors")
    assert not report.reset
    assert not report.unused
    assert macs(model, variables) == manifest["macs_one_image"]
    path = tmp_path / "out.safetensors"
    export_weights(variables, case.name, path, dialect=case.dialect)
    out = load_file(path)
    assert out.keys() == state.keys()
    for key in state:
        np.testing.assert_array_equal(out[key], state[key])
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", zoo.FULL, ids=str)
def test_full_size(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        check_values(case, dtype, **scanned(case))


def test_distilled_training_returns_both_heads():
    case = next(c for c in zoo.SMALL if str(c) == "small_deit_distilled")
    model, variables, images, _, arrays = case.build("float32")
    logits, aux = model.apply(variables, images, train=True)
    assert_close(logits, arrays["train_logits_cls"], 2e-5)
    assert_close(aux["logits_dist"], arrays["train_logits_dist"], 2e-5)


def test_the_synthetic_weights_are_the_references():
    manifest, _ = load_golden("models_small/small_vit")
    state = reference_state(manifest)
    assert len(state) == len(manifest["state"])
