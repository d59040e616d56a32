"""Token logits of every family: of the image, and of each of its places."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from model_goldens import jit_once

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.teach.token_logits import token_logits


EXACT = {
    "small_coatnet_bn",
    "small_coatnet_rw0",
    "small_coatnet_rmlp",
    "small_coatnet_mixed",
    "small_coatnext",
    "small_coatnext_pool",
    "small_swin",
    "small_official_swin",
    "small_swinv2",
    "small_volo_plain",
}
DENSE = {"small_lvvit", "small_volo"}
NONE = {"small_vit_map_head": "global_pool=", "small_volo_avg": "are no grid"}
HERE = [case for case in zoo.SMALL if str(case) not in NONE]
QUICK = [*zoo.ONE_EACH[::3], *(c for c in HERE if str(c) in ("small_coatnet_paper",))]


def expected_form(name: str) -> str:
    if name in DENSE:
        return "dense head"
    here = "head at each place"
    return here if name in EXACT else f"{here}, an approximation"


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=[] if c in QUICK else pytest.mark.slow, id=str(c))
        for c in HERE
    ],
)
def test_every_family(case):
    """The logits are those of the reference; exact ones are the mean of the places."""
    model, variables, images, _, arrays = case.build("float32")
    form = model.token_head()
    assert form.name == expected_form(str(case))
    run = jit_once(functools.partial(token_logits, model, form=form))
    logits, dense = run(variables, images)
    assert dense.shape == (len(images), *form.grid, model.num_classes)
    np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=2e-5)
    assert bool(jnp.isfinite(dense).all())
    if "approximation" not in form.name and form.name != "dense head":
        np.testing.assert_allclose(dense.mean((1, 2)), logits, rtol=0, atol=1e-5)


def test_the_dense_head_is_the_model_s_own():
    case = next(c for c in zoo.SMALL if str(c) == "small_lvvit")
    model, variables, images, *_ = case.build("float32")
    _, aux = jit_once(model.apply)(variables, images)
    run = jit_once(functools.partial(token_logits, model, form=model.token_head()))
    _, dense = run(variables, images)
    rows = np.asarray(aux["logits_aux"]).reshape(dense.shape)
    np.testing.assert_array_equal(dense, rows)


def test_a_classifier_on_patch_tokens_by_hand():
    """The class token and the patches go through the same norm and head."""
    case = next(c for c in zoo.SMALL if str(c) == "small_vit")
    model, variables, images, *_ = case.build("float32")
    _, aux = jit_once(model.apply)(variables, images)
    head = variables["params"]["head"]
    kernel, bias = np.asarray(head["kernel"]), np.asarray(head["bias"])
    by_hand = np.asarray(aux["tokens"])[:, 1:] @ kernel + bias
    run = jit_once(functools.partial(token_logits, model, form=model.token_head()))
    dense = np.asarray(run(variables, images)[1])
    np.testing.assert_allclose(dense.reshape(by_hand.shape), by_hand, atol=1e-5)


@pytest.mark.parametrize(("name", "part"), NONE.items())
def test_models_without_classes_of_places(name, part):
    case = next(c for c in zoo.SMALL if str(c) == name)
    with pytest.raises(UserError, match=part):
        case.build("float32")[0].token_head()


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("swin_tiny_patch4_window7_224", (7, 7)),
        ("deit_small_distilled_patch16_224", (14, 14)),
        ("coatnet_0_224", (7, 7)),
        ("volo_d1_224", (14, 14)),
    ],
)
def test_grids(name, grid):
    assert create_model(name).token_head().grid == grid
