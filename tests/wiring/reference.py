"""One training step written out by hand, from the pure functions and a plain config.

Nothing here reads a config section or knows the package's step: what it computes is
what the compiled step of an experiment must give.
"""

import functools
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from configs import common
from vit_jax_tricks import augment
from vit_jax_tricks.config import Section
from vit_jax_tricks.state import create
from vit_jax_tricks.train import experiment


MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
CLASSES, SIDE, BATCH = 3, 16, 16
TINY = {
    "data.image_size": SIDE,
    "data.train_crop": "whole",
    "batch_size": BATCH,
    "steps": 10,
    "schedule.warmup_epochs": 0.0,
    "optimizer.name": "sgd",
    "optimizer.weight_decay": 0.0,
    "schedule.lr": 0.1,
    "schedule.name": "constant",
}
SMALL = {
    "name": "deit_tiny_patch16_224",
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
}


def pictures(root: Path, side: int = 20) -> Path:
    """PNG files of three classes, of different colours: 48 to train on, 21 others."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 7)):
        for label in range(CLASSES):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 200, (side, side, 3), dtype=np.uint8)
                pixels[..., label] += 50
                PIL.Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return root


def config_of(changes: dict[str, Any]) -> Section:
    """configs/common.py with some of its keys changed, by their dotted names."""
    c = common.get_config()
    with c.unlocked():
        for key, value in changes.items():
            section, _, name = key.rpartition(".")
            node = c
            for part in filter(None, section.split(".")):
                if part not in node:  # a term of the loss
                    node[part] = {}
                node = node[part]
            node[name] = value
    return Section(c.to_dict())


def build(folder: Path, *, model: Any = SMALL, devices: int = 1, **changes: Any):
    """A tiny experiment on the pictures; keys of sections are typed `section__key`."""
    given = {key.replace("__", "."): value for key, value in changes.items()}
    given = {"data.name": f"folder:{folder}", "model": model, **TINY, **given}
    return experiment.build(config_of(given), devices=jax.devices()[:devices])


def batch_of(seed: int = 0, side: int = SIDE, size: int = BATCH) -> dict[str, Any]:
    """Smooth pictures, of which crops and turns do not blur all there is to see."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size, side // 4, side // 4, 3))
    fine = coarse.repeat(4, 1).repeat(4, 2) * 0.7 + rng.integers(0, 77, (side, side, 3))
    return {
        "image": fine.astype(np.uint8),
        "label": rng.integers(0, CLASSES, size).astype(np.int32),
        "index": rng.permutation(1000)[:size].astype(np.int32),
    }


def named(key: jax.Array, name: str) -> jax.Array:
    """The key of a named stream."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def stream(seed: int, name: str, step: int) -> jax.Array:
    """The key of a named stream at a step of a run."""
    return jax.random.fold_in(named(jax.random.key(seed), name), step)


@functools.cache
def compiled(fn: Any, **options: Any) -> Any:
    """A pure function with its options, compiled once for all tests."""
    return jax.jit(functools.partial(fn, **options))


def one_hot(labels: np.ndarray, classes: int = CLASSES) -> jax.Array:
    return jnp.asarray(np.eye(classes, dtype=np.float32)[labels])


def to_float(images: Any) -> jax.Array:
    images = jnp.asarray(images)
    levels = images.dtype == jnp.uint8
    return images.astype(jnp.float32) / 255 if levels else images


def to_levels(images: jax.Array) -> jax.Array:
    return jnp.round(jnp.clip(images, 0, 1) * 255).astype(jnp.uint8)


def normal(images: Any) -> jax.Array:
    return (to_float(images) - MEAN.reshape(1, 1, 1, 3)) / STD.reshape(1, 1, 1, 3)


def augmented(a: dict[str, Any], key: jax.Array, images: Any, index: Any) -> jax.Array:
    """What the keys `a` of `config.augment` make of uint8 images, in [0, 1]."""
    size = (SIDE, SIDE)
    levels = bool(a["color_jitter"] or a["hue"] or a["auto_augment"] != "none")
    how = {"interpolation": a["interpolation"]}
    if a["crop"] != "none":
        crop, options = {
            "random_resized": (augment.random_resized_crop, {"size": size}),
            "random_or_center": (augment.random_or_center_crop, {"size": SIDE}),
            "simple": (augment.simple_random_crop, {"size": SIDE}),
        }[a["crop"]]
        if a["crop"] != "simple":
            options |= {"scale": a["crop_scale"], "ratio": a["crop_ratio"]}
        crop = compiled(crop, **options, **how)
        images, _ = crop(named(key, "box"), to_float(images), index)
        images = to_levels(images) if levels else images
    if a["flip"]:
        images = compiled(augment.random_flip)(named(key, "flip"), images, index)
    if a["auto_augment"] != "none":
        fill = tuple(int(level) for level in np.round(255 * MEAN))
        mixes = a["auto_augment"].startswith("augmix")
        policy = augment.aug_mix if mixes else augment.rand_augment
        apply = compiled(policy, policy=a["auto_augment"], fill=fill, **how)
        images = apply(named(key, "policy"), images, index)
    if a["color_jitter"] or a["hue"]:
        names = ("brightness", "contrast", "saturation")
        strengths = dict.fromkeys(names, a["color_jitter"]) | {"hue": a["hue"]}
        jitter = compiled(augment.color_jitter, prob=a["jitter_prob"], **strengths)
        images = jitter(named(key, "jitter"), images, index)
    moves = {name: a[name] for name in ("degrees", "translate", "scale", "shear")}
    if any(moves[name] for name in ("degrees", "translate", "shear")):
        warp = compiled(augment.random_affine, **moves)
        images = warp(named(key, "affine"), to_float(images), index)
    if a["pad"]:
        shift = compiled(augment.random_pad_crop, pad=a["pad"])
        images = shift(named(key, "crop"), images, index)
    return to_float(images)


def prepared(
    a: dict[str, Any], batch: dict[str, Any], *, seed: int = 0, step: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Images as the model gets them, and their labels: the order is DeiT's."""
    index = jnp.asarray(batch["index"])
    images = augmented(a, stream(seed, "augment", step), batch["image"], index)
    labels = one_hot(batch["label"])

    def mixed(images: Any, labels: Any) -> Any:
        if not (a["mixup"] or a["cutmix"]):
            return images, labels
        mix = compiled(
            augment.mixup_or_cutmix,
            mixup_alpha=a["mixup"],
            cutmix_alpha=a["cutmix"],
            prob=a["mix_prob"],
            switch_prob=a["switch_prob"],
            mode=a["mix_mode"],
        )
        return mix(stream(seed, "mix", step), images, labels)

    if a["mix_first"]:
        images, labels = mixed(images, labels)
    images = normal(images)
    if a["erasing"]:
        erase = compiled(
            augment.random_erasing,
            prob=a["erasing"],
            mode=a["erasing_mode"],
            count=(1, a["erasing_count"]),
        )
        images = erase(stream(seed, "erase", step), images, index)
    return (images, labels) if a["mix_first"] else mixed(images, labels)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-sum_k y_k log p_k."""
    return -(labels * jax.nn.log_softmax(logits)).sum(-1)


def norm(tree: Any) -> float:
    """The length of all leaves together."""
    squares = [
        np.square(np.asarray(x, np.float64)).sum() for x in jax.tree.leaves(tree)
    ]
    return float(np.sqrt(sum(squares)))


def lively(x: Any) -> Any:
    """A state of an experiment, with parameters far from zero: every change shows."""
    rng, shapes = np.random.default_rng(1), x.state_shape()

    def noise(path: Any, leaf: Any) -> Any:
        start = path[-1].key in ("scale", "gamma")
        return start + 0.3 * rng.standard_normal(leaf.shape).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(noise, shapes.params)
    stats = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full(leaf.shape, path[-1].key == "var", np.float32),
        shapes.batch_stats,
    )
    variables = jax.tree.map(jnp.asarray, {"params": params, "batch_stats": stats})
    key = jax.random.key(x.seed)
    return create(variables, optimizer=x.optimizer, key=key, ema=x.has_ema)


@functools.cache
def loss_and_grads(model: Any) -> Any:
    """(params, images, labels) -> (mean cross-entropy, logits), gradients."""

    def loss(params: Any, images: Any, labels: Any) -> Any:
        logits, _ = model.apply({"params": params}, images, train=False)
        return cross_entropy(logits, labels).mean(), logits

    return jax.jit(jax.value_and_grad(loss, has_aux=True))
