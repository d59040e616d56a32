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
from vit_jax_tricks.augment.pixels import to_float, to_uint8
from vit_jax_tricks.augment.policy import draw
from vit_jax_tricks.config import Section
from vit_jax_tricks.inspect.contact_sheet import contact_sheet
from vit_jax_tricks.model_spec import channel_statistics
from vit_jax_tricks.random import example_keys, fold_in_str, step_key
from vit_jax_tricks.step import normalize


TILE = 150  # approximate side of a tile, in pixels


def write_sheet(
    config: Section, path: str | os.PathLike, *, images: int, step: int
) -> pathlib.Path:
    """Writes the images of a training step after each stage, one row for each stage.

    The draws are those of the run: they depend on `config.seed`, the `step` and the
    example. Erased and mixed images are shown as before normalisation; a mixed image is
    captioned with its label.
    """
    source = data.build(**config.data)
    mean, std = channel_statistics(config.model.name, source.channels)
    options = dict(config.augment)
    stack = augment.from_config(mean=mean, **options)
    batches = source.train_batches(images, config.seed, step)
    batch = next(iter(batches))
    index = jnp.asarray(batch["index"])
    names = [str(source.class_names[k]) for k in batch["label"]]

    def key(name: str) -> Any:
        return step_key(jax.random.key(config.seed), name, step)

    x = jnp.asarray(batch["image"])
    rows: list[tuple[Any, list[str]]] = [(x, names)]
    for name, stage in augment.stages(mean=mean, **options):
        stage_key = fold_in_str(key("augment"), name)
        x = jax.jit(stage)(stage_key, x, index)
        captions = [name] * images
        if name == "policy":
            captions = _operations(options["auto_augment"], stage_key, index, x.shape)
        rows.append((x, captions))
    x, labels = to_float(x), jnp.eye(source.num_classes)[batch["label"]]
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
            captions = [name] * images
            if name == "mixed":
                captions = [_shares(row, source.class_names) for row in labels]
            rows.append((shown, captions))
    tiles = [np.asarray(to_uint8(tile)) for row, _ in rows for tile in row]
    captions = [text for _, row in rows for text in row]
    side = max(source.image_shape[:2])
    return contact_sheet(tiles, captions, path, columns=images, zoom=TILE / side)


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
