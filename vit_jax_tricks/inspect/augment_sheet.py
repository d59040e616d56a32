"""Sheet that shows the effect of a config's augmentation on a few training images."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks import augment, data
from vit_jax_tricks.augment.operations import OPERATIONS
from vit_jax_tricks.augment.pixels import normalize, to_float, to_uint8
from vit_jax_tricks.augment.policy import draw
from vit_jax_tricks.config import Section
from vit_jax_tricks.data.sample import Sample
from vit_jax_tricks.data.source import reading
from vit_jax_tricks.inspect.contact_sheet import contact_sheet
from vit_jax_tricks.models.registry import channel_statistics
from vit_jax_tricks.random import example_keys, fold_in_str, step_key
from vit_jax_tricks.typing import UInt8


TILE = 150  # approximate side of a tile, in pixels


def write_sheet(
    config: Section, path: str | os.PathLike, *, images: int, step: int
) -> tuple[pathlib.Path, Sample]:
    """Writes training images of all classes after each stage, a row for each stage.

    `config.seed` chooses the examples, the same at any step. The draws are those of the
    run at `step` for these examples; only a crop on the host has a draw of its own.
    Erased and mixed images are shown before normalisation; the caption of a mixed one
    gives its classes and their shares.

    Returns: the path, and the examples shown.
    """
    source = data.build(**config.data)
    mean, std = channel_statistics(config.model.name, source.channels)
    options = dict(config.augment)
    stack = augment.from_config(mean=mean, **options)
    sample = source.sample(images, "train", config.seed)
    index = jnp.asarray(sample.rows, jnp.int32)
    names = [str(source.class_names[k]) for k in sample.labels]

    def key(name: str) -> Any:
        return step_key(jax.random.key(config.seed), name, step)

    x = jnp.asarray(_pictures(source, sample, step))
    rows: list[tuple[Any, list[str]]] = [(x, names)]
    geometry = augment.identity_geometry(len(index), (x.shape[1], x.shape[2]))
    sizes, every = options["multi_scale"], options["multi_scale_every"]
    size = None
    if sizes:
        size = augment.training_size(step, sizes, every=every, seed=config.seed)
    for name, stage in augment.stages(mean=mean, size=size, **options):
        stage_key = fold_in_str(key("augment"), name)
        x, geometry = jax.jit(stage)(stage_key, x, index, geometry)
        captions = [name] * len(sample)
        if name == "policy":
            captions = _operations(options["auto_augment"], stage_key, index, x.shape)
        rows.append((x, captions))
    x, labels = to_float(x), jnp.eye(source.num_classes)[sample.labels]
    after = [("erasing", lambda x, y: (stack.erase(key("erase"), x, index), y))]
    mixing = ("mixed", lambda x, y: stack.mix(key("mix"), x, y))
    after.insert(0 if stack.mix_first else 1, mixing)
    x = normalize(x, mean, std)
    for name, stage in after:
        before = x
        x, labels = jax.jit(stage)(x, labels)
        if not bool(jnp.array_equal(before, x)):
            centre, spread = (jnp.asarray(v)[None, None, None] for v in (mean, std))
            shown = to_uint8(x * spread + centre)
            captions = [name] * len(sample)
            if name == "mixed":
                captions = [_shares(row, source.class_names) for row in labels]
            rows.append((shown, captions))
    tiles = [np.asarray(to_uint8(tile)) for row, _ in rows for tile in row]
    captions = [text for _, row in rows for text in row]
    side = max(source.image_shape[:2])
    zoom = TILE / side
    made = contact_sheet(tiles, captions, path, columns=len(sample), zoom=zoom)
    return made, sample


def _pictures(
    source: data.Data, sample: Sample, step: int
) -> UInt8[np.ndarray, "n h w c"]:
    """The training views of a sample."""
    views = []
    for row in sample.rows.tolist():
        rng = np.random.default_rng((sample.seed, step, row))
        with reading(source.train, row):
            views.append(source.view.train(source.train[row][0], rng)[0])
    return np.stack(views)


def _operations(
    policy: str, key: Any, index: jax.Array, shape: tuple[int, ...]
) -> list[str]:
    """The policy's draw for each image, as `rotate -27, equalize`."""
    if policy.startswith("augmix"):
        return [policy] * len(index)
    keys = example_keys(key, index)
    op, amount = draw(augment.parse_policy(policy), keys, (shape[1], shape[2]))

    def words(op: int, amount: float) -> str:
        name = OPERATIONS[op]
        return f"{name} {amount:.2g}" if amount else name

    return [
        ", ".join(words(*one) for one in zip(*both, strict=True) if one[0])
        or "no operation"
        for both in zip(op.tolist(), amount.tolist(), strict=True)
    ]


def _shares(row: jax.Array, names: Sequence[str]) -> str:
    """A mixed label, as `0.62 cat 0.38 dog`."""
    order = np.argsort(-np.asarray(row), kind="stable")[:2]
    return " ".join(f"{row[k]:.2f} {names[k]}" for k in order if row[k] > 0.005)
