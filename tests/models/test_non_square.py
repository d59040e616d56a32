"""Models of images whose sides differ, against timm or the official program.

Float64 logits, in every family. Stored by tests/golden/make_non_square.py.
"""

import jax.numpy as jnp
import pytest
from goldens import golden_images, load_golden, reference_state
from model_goldens import assert_close, jit_once

from vit_jax_tricks.models import create_model, list_models
from vit_jax_tricks.models.registry import lookup
from vit_jax_tricks.pretrained.load import load_arrays


CASES = load_golden("non_square/logits")[0]["cases"]
QUICK = {"vit_tiny_patch16_224:64x144", "eva02_tiny_patch14_224:112x168"}


@pytest.mark.parametrize(
    "case",
    [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES],
)
def test_float64_logits_are_the_reference_s(case, x64):
    manifest = CASES[case]
    dtypes = {"dtype": "float64", "param_dtype": "float64"}
    model = create_model(manifest["name"], **manifest["kwargs"], **dtypes)
    variables, report = load_arrays(model, reference_state(manifest))
    assert (report.resized, report.reset, report.unused) == ((), (), ())
    images = jnp.asarray(golden_images(manifest), jnp.float64)
    logits, _ = jit_once(model.apply)(variables, images)
    assert_close(logits, load_golden("non_square/logits")[1][case], 1e-9)


def test_no_family_is_left_out():
    families = {lookup(manifest["name"]).family for manifest in CASES.values()}
    assert families == {lookup(name).family for name in list_models()}
