"""Loads weights from reference key names into variables, accounting for every key."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vit_jax_tricks.checks import checked
from vit_jax_tricks.console import say
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.stacking import flatten, stack_blocks
from vit_jax_tricks.pretrained.fit import Fit, checked_grid
from vit_jax_tricks.pretrained.load_report import LoadReport
from vit_jax_tricks.pretrained.rules import (
    KeyNames,
    KeyRule,
    find_key,
    find_path,
    key_names,
)
from vit_jax_tricks.pretrained.sources import read_source
from vit_jax_tricks.pretrained.weights import FLOATS, Weights, refuse_type
from vit_jax_tricks.typing import Params, PRNGKeyArray


# Entries of a reference file that no model needs.
IGNORED = (
    r"(.*\.)?(num_batches_tracked|relative_position_index|relative_coords_table"
    r"|attn_mask)"
)


@checked
def load_pretrained(
    model: Any,
    source: str | Path,
    *,
    strict: bool = True,
    key: PRNGKeyArray | None = None,
    ema: bool | None = None,
    grid: tuple[int, int] | None = None,
    verbose: bool = True,
) -> tuple[Params, LoadReport]:
    """Loads variables of `model` from a weight file, a workdir or the Hugging Face hub.

    Position tables of another grid, patch embeddings of another patch size, and first
    convolutions with another number of channels are resampled as in timm; a head with
    another number of classes is initialised from `key` (default: seed 0). The report
    lists all of this. With `strict=False`, parameters missing from the file are
    initialised and unexpected keys are left out; both are reported.

    Args:
        model: a module from `create_model`.
        source: a `.safetensors` file of timm, transformers or `export_weights`, or the
        index of its shards; an `.npz` file of vision_transformer (AugReg) or
        big_vision; a PyTorch file with a state dict (needs torch); a workdir, whose
        newest intact checkpoint is read; `hub:owner/name[@revision]`.
        strict: rejects missing and unexpected keys.
        key: random key for newly initialised parameters.
        ema: the averaged weights of a workdir or file (True), the plain ones
        (False), or the averaged ones if there are any (None).
        grid: rows and columns of the file's position table. The default is the grid of
        the run in a workdir, or the one that `export_weights` recorded; otherwise the
        model's grid if the number of rows agrees, or else a square.
        verbose: prints the report.

    Returns:
        `(variables, report)`.

    Raises:
        UserError: a missing or damaged file, missing or unexpected keys, a wrong shape,
        a value that is not finite, or a `key` of the wrong kind.
    """
    weights = read_source(source, key_names(type(model)), ema=ema)
    variables, report = load_weights(model, weights, strict=strict, key=key, grid=grid)
    if verbose:
        say(str(report))
    return variables, report


@checked
def load_arrays(
    model: Any,
    arrays: Mapping[str, np.ndarray],
    *,
    source: str = "weights",
    strict: bool = True,
    key: PRNGKeyArray | None = None,
) -> tuple[Params, LoadReport]:
    """`load_pretrained` for arrays that are already in memory, by reference key."""
    return load_weights(model, Weights(source, arrays), strict=strict, key=key)


def load_weights(
    model: Any,
    weights: Weights,
    *,
    strict: bool = True,
    key: PRNGKeyArray | None = None,
    grid: tuple[int, int] | None = None,
) -> tuple[Params, LoadReport]:
    """`load_pretrained` for weights returned by `read_source`."""
    names = key_names(type(model))
    source = weights.source
    wanted = _shapes(model)
    found, loaded, resized, unused, heads = {}, [], [], list(weights.unneeded), {}
    unexpected, kept_head = [], False
    headless = model.num_classes == 0
    same = isinstance(weights.model, type(model))  # a workdir may hold another family
    old = weights.model if same else None
    old_grid = checked_grid(grid) or weights.grid or (old and old.grid)
    fit = Fit(
        model, source, old_grid=old_grid, old_model=old, bilinear=weights.bilinear
    )
    for name, array, match in _matches(weights, names, wanted):
        if name in names.constants:
            names.constants[name](source, array, model)
            loaded.append(name)
            continue
        if match is None or match[0] not in wanted:
            if re.fullmatch(IGNORED, name):
                continue
            unused.append(name)
            if not (headless and match is not None and match[1].head) and not (
                re.fullmatch(names.elsewhere, name)
            ):
                unexpected.append(name)
            continue
        path, rule = match
        if array.dtype.name not in FLOATS:
            refuse_type(source, name, array.dtype)
        for zero in (p for p in rule.zeros if p in wanted):
            found[zero] = np.zeros(wanted[zero].shape, wanted[zero].dtype)
        expected = _reference_shape(rule, wanted[path].shape)
        if array.shape != expected and _another_head(rule, array, wanted[path].shape):
            heads[path] = f"{name} {array.shape}, the model has {expected}"
            continue
        fitted = fit(name, array, expected, path, rule)
        if fitted is array:
            loaded.append(name)
        else:
            resized.append(f"{name} {array.shape} -> {expected}")
        value = rule.transform.load(fitted, wanted[path].shape)
        found[path] = _cast(source, name, value, wanted[path].dtype)
        kept_head |= rule.head
    if grid:
        fit.check_grid_was_read()
    reset = [path for path in wanted if path not in found]
    if strict:
        _refuse(source, "lacks", [path for path in reset if path not in heads])
        _refuse(source, "has unexpected", unexpected)
    notes = fit.notes + _notes(model, weights, kept_head=kept_head, strict=strict)
    unused += dict.fromkeys(heads.values())
    found |= _fresh(model, reset, key)
    variables = traverse_util.unflatten_dict({p: found[p] for p in wanted}, sep="/")
    if model.scan:
        first = model.scan_from
        variables = {k: stack_blocks(v, first=first) for k, v in variables.items()}
    variables = jax.device_put(variables)  # jnp.asarray would compile each shape
    lists = map(tuple, (loaded, resized, reset, unused, notes))
    return variables, LoadReport(source, *lists)


def _matches(
    weights: Weights, names: KeyNames, wanted: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray, tuple[str, KeyRule] | None]]:
    """Yields each key with its array in the reference's layout, our path and rule."""
    if not weights.native:
        rules = names.dialect_of(weights.arrays.keys(), wanted.keys())
        for name, array in weights.arrays.items():
            yield name, array, find_path(name, rules)
        return
    rules = names.rules
    for path, array in weights.arrays.items():
        match = find_key(path, rules)
        rule = KeyRule(path, path) if match is None else match[1]
        yield path, rule.transform.export(array), (path, rule)


def _another_head(rule: KeyRule, array: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether an array is a head that differs from ours only in its class count."""
    if not rule.head or array.ndim != len(shape):
        return False
    return rule.transform.load(array, shape).shape[:-1] == shape[:-1]


def _cast(source: str, name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """Casts an array to a parameter's dtype. Raises UserError unless it is finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        value = np.asarray(array).astype(dtype)
    if not np.isfinite(value.astype(np.float32) if dtype.itemsize < 4 else value).all():
        held = np.asarray(array).astype(np.float64)
        beyond = f" in {dtype.name}" if np.isfinite(held).all() else ""
        raise UserError(f"{source}: {name} holds values that are not finite{beyond}.")
    return value


def _notes(model: Any, weights: Weights, *, kept_head: bool, strict: bool) -> list[str]:
    """Notes on training settings of the weights that the model computes differently.

    Raises:
      UserError: with `strict`, if the head does not take the model's features.
    """
    notes = list(weights.notes)
    if weights.before_head and kept_head:
        layer = weights.before_head[0]
        if strict:
            raise UserError(
                f"{weights.source}: its head stands behind {layer}, for which the "
                "model has no layer; give another num_classes for a new head, 0 for "
                "features, or strict=False to use the head without the layer."
            )
        notes.append(
            f"the head was trained behind {layer}, for which the model has no layer: "
            "its logits differ from those of the file's model"
        )
    trained, ours = weights.act_layer, model.activation
    if trained is not None and ours not in (None, trained):
        notes.append(
            f'the file was trained with act_layer="{trained}" but the model uses '
            f'"{ours}", as in timm; create it with act_layer="{trained}" for the '
            "original numbers"
        )
    return notes


def _shapes(model: Any) -> dict[str, np.ndarray]:
    """Path -> array of its shape and dtype that takes no memory, blocks unstacked."""
    images = jax.ShapeDtypeStruct((1, *model.image_shape), model.dtype)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    empty = jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes
    )
    return dict(sorted(flatten(empty).items()))


def _fresh(
    model: Any, paths: Sequence[str], key: PRNGKeyArray | None
) -> dict[str, jax.Array]:
    """Initial values of some paths; under jit, nothing else is computed."""
    if not paths:
        return {}
    key = jax.random.key(0) if key is None else key
    images = jnp.zeros((1, *model.image_shape), model.dtype)
    model = model.clone(scan=False)

    def values(key: PRNGKeyArray) -> dict[str, jax.Array]:
        fresh = flatten(model.init(key, images))
        return {path: fresh[path] for path in paths}

    return jax.jit(values)(key)


def _reference_shape(rule: KeyRule, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of our parameter in the reference's layout."""
    return rule.transform.export(np.broadcast_to(np.int8(0), shape)).shape


def _refuse(source: str, what: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise UserError(
            f"{source} {what} {names[0]}{more}; check the model's name and overrides, "
            "or pass strict=False."
        )
