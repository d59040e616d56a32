"""Weights in: from reference key names to variables, every key accounted for."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.stacking import stack_blocks
from vit_jax_tricks.pretrained.dialects import DIALECTS, IGNORED, dialect_of
from vit_jax_tricks.pretrained.export import flatten
from vit_jax_tricks.pretrained.files import read_weights
from vit_jax_tricks.pretrained.report import LoadReport
from vit_jax_tricks.pretrained.rules import Rule, find_path
from vit_jax_tricks.typing import Params, PRNGKeyArray


def load_pretrained(
    model: Any,
    source: str | Path,
    *,
    strict: bool = True,
    key: PRNGKeyArray | None = None,
) -> tuple[Params, LoadReport]:
    """Variables of `model` from a weight file in its reference's key names.

    A position table of another grid is resampled; a head of another number of classes
    is drawn anew from `key` (default: seed 0). Both are in the report. With
    `strict=False` parameters that the file lacks are drawn anew and keys that the model
    lacks are left out, and reported.

    Args:
        model: a module from `create_model`.
        source: a `.safetensors` file.

    Returns:
        `(variables, report)`; `print(report)` shows what was done.

    Raises:
        UserError: a missing or damaged file, missing or unexpected keys, a wrong
            shape, or a value that is not finite.
    """
    source = str(source)
    return load_arrays(
        model, read_weights(source), source=source, strict=strict, key=key
    )


def load_arrays(
    model: Any,
    arrays: Mapping[str, np.ndarray],
    *,
    source: str = "weights",
    strict: bool = True,
    key: PRNGKeyArray | None = None,
) -> tuple[Params, LoadReport]:
    """`load_pretrained` for arrays that are already in memory, by reference key."""
    family = type(model).__name__
    if family not in DIALECTS:
        raise UserError(f"no weights can be loaded for {family} yet.")
    wanted = _shapes(model)
    rules = dialect_of(family, arrays.keys(), wanted.keys())
    found, loaded, resized, unused, heads = {}, [], [], [], {}
    for name, array in arrays.items():
        match = find_path(name, rules)
        if match is None or match[0] not in wanted:
            if not re.fullmatch(IGNORED, name):
                unused.append(name)
            continue
        path, rule = match
        if not np.isfinite(array.astype(np.float32)).all():
            raise UserError(f"{source}: {name} holds values that are not finite.")
        shape, expected = array.shape, _reference_shape(rule, wanted[path].shape)
        if array.shape != expected and rule.head and array.shape[1:] == expected[1:]:
            heads[path] = f"{name} {array.shape}, the model has {expected}"
            continue
        if array.shape == expected:
            loaded.append(name)
        else:
            array = _resized(source, name, array, expected, model, path, rule)
            resized.append(f"{name} {shape} -> {expected}")
        value = rule.transform.load(array, wanted[path].shape)
        found[path] = jnp.asarray(value, wanted[path].dtype)
    reset = [path for path in wanted if path not in found]
    if strict:
        missing = [path for path in reset if path not in heads]
        headless = model.num_classes == 0
        unexpected = [k for k in unused if not (headless and _is_head(k, rules))]
        _refuse(source, "lacks", missing)
        _refuse(source, "has unexpected", unexpected)
    unused += heads.values()
    found |= _fresh(model, reset, key)
    variables = traverse_util.unflatten_dict({p: found[p] for p in wanted}, sep="/")
    if getattr(model, "scan", False):
        variables["params"] = stack_blocks(variables["params"])
    report = LoadReport(source, *map(tuple, (loaded, resized, reset, unused)))
    return variables, report


def _init(model: Any, key: PRNGKeyArray) -> dict[str, jax.Array]:
    """Fresh variables as path -> array, blocks unstacked."""
    images = jnp.zeros((1, *model.image_shape), model.dtype)
    model = model.clone(scan=False) if hasattr(model, "scan") else model
    return flatten(model.init(key, images))


def _shapes(model: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
    return jax.eval_shape(lambda key: _init(model, key), jax.random.key(0))


def _fresh(
    model: nn.Module, paths: Sequence[str], key: PRNGKeyArray | None
) -> dict[str, jax.Array]:
    """Initial values of some paths; under jit nothing else is computed."""
    if not paths:
        return {}
    key = jax.random.key(0) if key is None else key

    def values(key: PRNGKeyArray) -> dict[str, jax.Array]:
        fresh = _init(model, key)
        return {path: fresh[path] for path in paths}

    return jax.jit(values)(key)


def _reference_shape(rule: Rule, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the reference gives a parameter of ours."""
    return rule.transform.export(np.broadcast_to(np.int8(0), shape)).shape


def _is_head(name: str, rules: Sequence[Rule]) -> bool:
    match = find_path(name, rules)
    return match is not None and match[1].head


def _resized(
    source: str,
    name: str,
    array: np.ndarray,
    expected: tuple[int, ...],
    model: Any,
    path: str,
    rule: Rule,
) -> np.ndarray:
    """An array of another shape made to fit, or UserError."""
    reason = "check the model's name and overrides."
    if rule.resize is not None and array.ndim == len(expected):
        try:
            return rule.resize(array, expected, model, path)
        except UserError as error:
            reason = str(error)
    raise UserError(
        f"{source}: {name} has shape {array.shape}, the model expects {expected}; "
        f"{reason}"
    )


def _refuse(source: str, what: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise UserError(
            f"{source} {what} {names[0]}{more}; check the model's name and overrides, "
            "or pass strict=False."
        )
