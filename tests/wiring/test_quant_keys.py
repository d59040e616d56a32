"""`config.quant` and `config.teacher`: ranges of the images that were named, and what
several teachers say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from vit_jax_tricks.compress import Spec, standard_rules
from vit_jax_tricks.runs.trained import Trained
from vit_jax_tricks.teach import teachers


pytestmark = pytest.mark.usefixtures("home")


def test_the_rules_are_those_of_the_keys(folder):
    x = reference.build(
        folder,
        quant__weights="int4_narrow",
        quant__weight_observer="mse",
        quant__activations="uint8",
        quant__activation_observer="percentile",
        quant__percentile=99.0,
        quant__learned=True,
        quant__calibration=7,
        quant__rules=(("head/kernel", {"grid": "int8"}), (".*fc2/kernel", None)),
    )
    weight = Spec("int4_narrow", per_channel=True, observer="mse", learned=True)
    activation = Spec(
        "uint8", symmetric=False, observer="percentile", percentile=99.0, learned=True
    )
    own = (("head/kernel", Spec("int8")), (".*fc2/kernel", None))
    assert x.task.quantized.rules == (*own, *standard_rules(weight, activation))
    assert x.task.calibration == 7


def test_without_keys_nothing_is_quantised(folder):
    x = reference.build(folder)
    assert x.task.quantized is None
    assert set(x.state_shape().params) == {
        "blocks_0",
        "cls_token",
        "head",
        "norm",
        "patch_embed",
        "pos_embed",
    }


def test_ranges_are_those_of_all_calibration_images(folder):
    """All 48 images, normalised: the input of the first layer reaches their largest."""
    x = reference.build(
        folder,
        quant__activations="int8",
        quant__rules=(("patch_embed/proj/input", {"grid": "int8"}),),
        quant__calibration=48,
    )
    state = x.compile_init()
    found = x.task.quantized.ranges(state.variables)["patch_embed/proj/input"]
    images = [batch["image"] for batch in x.task.data.test_batches(48, "train")]
    largest = np.abs(reference.normal(np.concatenate(images))).max()
    assert float(found.scale) == pytest.approx(float(largest) / 127, rel=1e-6)


def teacher(x, scale):
    """A teacher like the student, with parameters of its own."""
    params = jax.tree.map(lambda leaf: scale * leaf, reference.lively(x).params)
    trained = Trained(
        x.task.spec, x.task.model, {"": {"params": params}}, f"teacher {scale}"
    )
    return teachers.Teacher(trained, x.task.model.token_head())


def test_labels_of_several_teachers_are_their_mean(folder):
    """Smoothed by 0.1: t becomes 0.9 t + 0.1 / 3 + 0.1 / 3 t, as in TokenLabeling."""
    model = {
        "name": "lvvit_s",
        "patch_size": 8,
        "embed_dim": 8,
        "depth": 1,
        "num_heads": 2,
        "p_emb": 1,
        "return_dense": True,
        "mix_token": False,
    }
    x = reference.build(folder, model=model)
    images = reference.normal(reference.batch_of()["image"])
    two = [teacher(x, scale) for scale in (0.5, 1.0)]
    teach = functools.partial(
        teachers.teach,
        teachers=two,
        needs=frozenset({"token_labels", "teacher_logits"}),
        mean=tuple(map(float, reference.MEAN)),
        std=tuple(map(float, reference.STD)),
        grid=(2, 2),
        smoothing=0.1,
    )
    found = jax.jit(teach)([one.variables for one in two], images)
    logits, tokens = [], []
    apply = jax.jit(
        lambda variables: x.task.model.apply(variables, images, train=False)
    )
    for one in two:
        image, aux = apply(one.variables)
        logits.append(image)
        tokens.append(aux["logits_aux"])

    def labels(every):
        mean = np.mean([jax.nn.softmax(z) for z in every], axis=0)
        return mean * (0.9 + 0.1 / 3) + 0.1 / 3

    np.testing.assert_allclose(found["teacher_logits"], jnp.stack(logits), atol=1e-5)
    np.testing.assert_allclose(found["token_labels"], labels(tokens), atol=1e-5)
    np.testing.assert_allclose(found["class_labels"], labels(logits), atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 1e-2


def test_tokens_of_a_teacher_are_those_of_its_patches(folder):
    """Without the class token, as the student compares them."""
    x = reference.build(folder)
    images = reference.normal(reference.batch_of()["image"])
    one = teacher(x, 1.0)
    teach = functools.partial(
        teachers.teach,
        teachers=[one],
        needs=frozenset({"teacher_tokens", "teacher_logits"}),
        mean=tuple(map(float, reference.MEAN)),
        std=tuple(map(float, reference.STD)),
        grid=None,
    )
    found = jax.jit(teach)([one.variables], images)
    _, aux = jax.jit(functools.partial(x.task.model.apply, train=False))(
        one.variables, images
    )
    assert found["teacher_tokens"].shape == (16, 4, 16)  # 2 x 2 patches
    np.testing.assert_allclose(found["teacher_tokens"], aux["tokens"][:, 1:], atol=1e-5)
