"""Token labels and their losses against TokenLabeling, which VOLO's equal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden
from loss_checks import arrays_of, assert_close, both_precisions
from quick import sparse

from vit_jax_tricks import losses
from vit_jax_tricks.augment import mixup_with
from vit_jax_tricks.errors import UserError


MANIFEST, GOLDEN = load_golden("losses/token_label")
_, MAPS = load_golden("losses/token_label_targets")
_, OPTIONS = load_golden("losses/options")
ROI = sorted(k for k in OPTIONS if k.startswith("roi:"))


@both_precisions
@pytest.mark.parametrize("case", MANIFEST["cases"])
def test_losses(case, dtype):
    """TokenLabelCrossEntropy; with gt1, ground_truth=True: TokenLabelGTCrossEntropy."""
    box, truth, weight, kind = case.split("_")
    lam = {"nobox": 1, "box1032": 1 - 4 / 9}[box]
    if kind == "t3":
        (target,) = arrays_of(GOLDEN, dtype, "target3")
        true, image, tokens = target[..., 0], target[..., 1], target[..., 2:].mT
        if truth == "gt1":
            image = losses.corrected_class_labels(class_labels=image, true_labels=true)
    else:
        (image,) = arrays_of(GOLDEN, dtype, "target2")
        tokens = jnp.broadcast_to(image[:, None], GOLDEN["aux_logits"].shape)
    image = losses.mix_class_labels(image, lam)

    def loss(logits, dense):
        return losses.token_label_cross_entropy(
            logits=logits,
            dense_logits=dense,
            class_labels=image,
            token_labels=tokens,
            dense_weight=float(weight.removeprefix("dense")),
        ).mean()

    inputs = arrays_of(GOLDEN, dtype, "cls_logits", "aux_logits")
    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(*inputs)
    assert_close(value, GOLDEN[f"loss:{case}"], dtype)
    if f"grad_cls:{case}" in GOLDEN:
        assert_close(grads[0], GOLDEN[f"grad_cls:{case}"], dtype)
        assert_close(grads[1], GOLDEN[f"grad_aux:{case}"], dtype)


@both_precisions
def test_the_simple_forms_are_the_cross_entropy(dtype):
    """TokenLabelSoftTargetCrossEntropy and, with repeats, SoftTargetCrossEntropy."""
    names = ("cls_logits", "target2", "target_pair")
    logits, labels, pair = arrays_of(GOLDEN, dtype, *names)
    twice = jnp.concatenate([logits, logits / 2])
    for name, z, q in (
        ("TokenLabelSoftTargetCrossEntropy_pair", logits, pair[..., 1]),
        ("TokenLabelSoftTargetCrossEntropy_2d", logits, labels),
        ("SoftTargetCrossEntropy_repeat2", twice, jnp.tile(labels, (2, 1))),
    ):
        loss = losses.softmax_cross_entropy(logits=z, labels=q).mean()
        assert_close(loss, GOLDEN[f"loss:{name}"], dtype)


@pytest.mark.parametrize("dtype", ["float64"])
def test_kl_is_the_cross_entropy_less_the_entropy(dtype):
    names = ("aux_logits", "target3")
    logits, target = arrays_of(GOLDEN, dtype, *names)
    labels = target[..., 2:].mT
    labels = labels / labels.sum(-1, keepdims=True)
    entropy = -(labels * jnp.log(labels)).sum(-1)
    given = dict(logits=logits, labels=labels)
    kl, ce = losses.kl_divergence(**given), losses.softmax_cross_entropy(**given)
    assert kl.shape == (4, 9)
    np.testing.assert_allclose(kl, ce - entropy, rtol=1e-12)
    grads = [
        jax.grad(lambda z, f=f: f(logits=z, labels=labels).sum())(logits)
        for f in (losses.kl_divergence, losses.softmax_cross_entropy)
    ]
    np.testing.assert_allclose(*grads, atol=1e-14)
    exact = losses.kl_divergence(logits=jnp.log(labels), labels=labels)
    np.testing.assert_allclose(exact, 0, atol=1e-14)


def targets(dtype, size, smoothing, as_released=True):
    maps = MAPS["label_maps"]  # [b, (scores, classes, crop), t, p, q]
    scores, classes = (np.moveaxis(maps[:, i], 1, -1) for i in (0, 1))
    return losses.token_label_targets(
        scores=jnp.asarray(scores, dtype),
        classes=jnp.asarray(classes, jnp.int32),
        boxes=jnp.asarray(MAPS["crops_ijhw"], dtype),
        num_classes=20,
        size=(size, size),
        smoothing=smoothing,
        as_released=as_released,
    )


@both_precisions
@pytest.mark.parametrize("smoothing", sparse([0.1, 0.0], every=2))
@pytest.mark.parametrize("lam", sparse([0.7, 1.0], every=2))
@pytest.mark.parametrize("size", sparse([4, 1], every=2))
def test_targets(size, lam, smoothing, dtype):
    """mixup_target: the true label, the crop's and the tokens', in columns, mixed."""
    image, tokens = targets(dtype, size, smoothing)
    true = jax.nn.one_hot(MAPS["ground_truth"], 20, dtype=dtype)
    labels = {
        "true": losses.smooth_labels(true, smoothing=smoothing),
        "image": image,
        "tokens": tokens,
    }
    pixels = jnp.zeros((4, 8, 8, 3), dtype)
    _, mixed = jax.jit(mixup_with)(pixels, labels, jnp.asarray(lam, dtype))
    columns = [mixed["true"][:, None], mixed["image"][:, None]]
    if size > 1:
        columns.append(mixed["tokens"].reshape(4, -1, 20))
    got = jnp.concatenate(columns, axis=1).mT
    want = MAPS[f"target_size{size}_lam{lam:g}_smooth{smoothing:g}"]
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)  # a float32 reference


def test_the_released_program_measures_boxes_in_columns_of_the_map():
    """Of 2 x 8 cells: left 1/8 is then row 1 of 8, and top 1/2 is column 4."""
    released = jax.jit(
        lambda cells: losses.token_label_targets(
            scores=jnp.full(cells.shape, 20.0),
            classes=cells,
            boxes=jnp.array([[0.5, 0.125, 0.125, 0.125]]),
            num_classes=16,
            size=(1, 1),
            as_released=True,
        )
    )
    image, tokens = map(np.asarray, released(np.arange(16).reshape(1, 2, 8, 1)))
    assert image.argmax() == tokens.argmax() == 8 + 4


def test_crops_of_the_map_are_right_side_up():
    """As released, a crop is taken from the mirror image of its box."""
    released = targets("float32", 4, 0.0)[1]
    scores = losses.dense_scores(
        jnp.moveaxis(jnp.asarray(MAPS["label_maps"][:, 0]), 1, -1),
        jnp.moveaxis(jnp.asarray(MAPS["label_maps"][:, 1], jnp.int32), 1, -1),
        num_classes=20,
    )
    whole = jax.nn.softmax(scores, axis=-1)
    np.testing.assert_array_equal(jnp.argmax(whole, -1), MAPS["label_maps"][:, 1, 0])
    mirrored = jnp.asarray(MAPS["crops_ijhw"][:, [1, 0, 3, 2]])
    upright = losses.token_label_targets(
        scores=jnp.moveaxis(jnp.asarray(MAPS["label_maps"][:, 0]), 1, -1),
        classes=jnp.moveaxis(jnp.asarray(MAPS["label_maps"][:, 1], jnp.int32), 1, -1),
        boxes=mirrored,
        num_classes=20,
        size=(4, 4),
    )
    np.testing.assert_allclose(upright[1], released, atol=1e-6)
    same = targets("float32", 6, 0.0, as_released=False)[1][0]  # the whole image
    near = np.abs(same - whole[0]).max()
    assert near < np.abs(same - whole[0].swapaxes(0, 1)).max()
    with pytest.raises(UserError, match="0 <= smoothing < 1"):
        targets("float32", 4, 1.0)


def test_classes_that_do_not_exist_are_left_out():
    scores = jnp.asarray([[[[3.0, 2.0, 1.0]]]])
    got = losses.dense_scores(scores, jnp.asarray([[[[1, 7, -1]]]]), num_classes=3)
    np.testing.assert_array_equal(got, [[[[0, 3, 0]]]])


@both_precisions
@pytest.mark.parametrize("name", sparse(ROI, every=4))
def test_roi_align(name, dtype):
    samples, aligned, size = name.removeprefix("roi:").split("_")
    rows, columns = map(int, size.split("x"))
    maps, boxes = arrays_of(OPTIONS, dtype, "maps", "boxes")
    align = functools.partial(
        losses.roi_align,
        size=(rows, columns),
        samples=int(samples) if int(samples) > 0 else None,
        aligned=aligned == "1",
    )
    assert_close(jax.jit(align)(maps, boxes), OPTIONS[name], dtype)


def test_roi_align_of_the_released_boxes():
    maps = jnp.moveaxis(jnp.asarray(MAPS["roi_input"]), 1, -1)
    boxes = jnp.asarray(MAPS["roi_boxes"][:, [2, 1, 4, 3]])
    align = functools.partial(losses.roi_align, size=(4, 4))
    got = jax.jit(align)(maps, boxes)
    want = np.moveaxis(MAPS["roi_align_out4"], 1, -1)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    with pytest.raises(UserError, match=r"size=\(0, 4\)"):
        losses.roi_align(maps, boxes, size=(0, 4))
