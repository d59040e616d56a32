"""Two-way rules between reference key names and our parameter paths.

A rule is a pair of name templates and a transform. `{i}` and `{j}` stand for numbers on
both sides, `{i+1}` for the next number, and `{*}` for any text. Paths begin with the
collection: `params/blocks_{i}/attn/qkv/kernel`.
"""

import dataclasses
import functools
import itertools
import pkgutil
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from vit_jax_tricks.models.base import ImageModel
from vit_jax_tricks.pretrained.weights import Weights


@dataclasses.dataclass(frozen=True)
class Transform:
    """Converts layouts: `load` takes a reference array and our shape, `export` ours."""

    load: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    export: Callable[[np.ndarray], np.ndarray]


COPY = Transform(lambda w, shape: w, lambda w: w)
# Linear weight (out, in) <-> kernel [in, out].
LINEAR = Transform(lambda w, shape: w.T, lambda w: w.T)
# Convolution (out, in, kh, kw) <-> kernel [kh, kw, in, out].
CONV = Transform(
    lambda w, shape: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1)
)
# Fused projection, rows ordered (q k v, head, feature) <-> kernel [d, 3, g, h].
QKV = Transform(
    lambda w, shape: w.T.reshape(shape), lambda w: w.reshape(w.shape[0], -1).T
)
QKV_BIAS = Transform(lambda w, shape: w.reshape(shape), lambda w: w.reshape(-1))
# Output projection, columns ordered (head, feature) <-> kernel [g, h, d].
PROJ = Transform(
    lambda w, shape: w.T.reshape(shape), lambda w: w.reshape(-1, w.shape[-1]).T
)


# Fits an array of another grid or window to (expected shape, model, our path); both
# shapes are in the reference's layout. Raises UserError if it cannot.
Resize = Callable[[np.ndarray, tuple[int, ...], Any, str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class KeyRule:
    """One line of the translation: `key` is the reference's name, `path` ours.

    `resize` adapts an array of another shape. For a `head`, our last axis is the
    classes; a head with another number of classes is newly initialised instead. `zeros`
    are our paths that have no key in this reference because they are zero there.
    """

    key: str
    path: str
    transform: Transform = COPY
    resize: Resize | None = None
    head: bool = False
    zeros: tuple[str, ...] = ()

    def path_of(self, key: str) -> str | None:
        """Our path for a reference key, or None if the rule does not apply."""
        return _translate(key, self.key, self.path)

    def key_of(self, path: str) -> str | None:
        """The reference key for our path, or None if the rule does not apply."""
        return _translate(path, self.path, self.key)


@dataclasses.dataclass(frozen=True)
class KeyNames:
    """All that a family's weights are called; a family names it in `key_names`.

    Attributes:
      dialects: a list of rules for each way of naming the parameters.
      constants: entries that the model computes; functions of (source, array, model)
        check them.
      elsewhere: a pattern of entries of another part of the reference's model, which
        are reported, never rejected.
      converters: for files whose names belong to no dialect: the first one that
        recognises a file, returning more than None, converts it.
    """

    dialects: Mapping[str, list[KeyRule]]
    constants: Mapping[str, Callable[[str, np.ndarray, Any], None]] = dataclasses.field(
        default_factory=dict
    )
    elsewhere: str = ""
    converters: tuple[Callable[[Weights], Weights | None], ...] = ()

    @property
    def rules(self) -> list[KeyRule]:
        """The rules of all dialects, in order."""
        return list(itertools.chain(*self.dialects.values()))

    def dialect_of(
        self, keys: Collection[str], paths: Collection[str]
    ) -> list[KeyRule]:
        """The rules that recognise most of a file's keys as parameters of a model.

        The same key may have two meanings in two dialects, so a file is read in only
        one. `paths` are the model's parameter paths.
        """

        def known(rules: list[KeyRule]) -> int:
            found = (find_path(key, rules) for key in keys)
            return sum(match is not None and match[0] in paths for match in found)

        return max(self.dialects.values(), key=known)


def key_names(family: type[ImageModel]) -> KeyNames:
    """The key names of a family, which it gives as `module:NAME`."""
    return pkgutil.resolve_name(family.key_names)


def linear(key: str, path: str, *, head: bool = False) -> list[KeyRule]:
    """The two rules of a linear layer."""
    return [
        KeyRule(f"{key}.weight", f"params/{path}/kernel", LINEAR, head=head),
        KeyRule(f"{key}.bias", f"params/{path}/bias", head=head),
    ]


def conv(key: str, path: str, *, resize: Resize | None = None) -> list[KeyRule]:
    """The two rules of a convolution; `resize` adapts its kernel."""
    return [
        KeyRule(f"{key}.weight", f"params/{path}/kernel", CONV, resize),
        KeyRule(f"{key}.bias", f"params/{path}/bias"),
    ]


def norm(key: str, path: str) -> list[KeyRule]:
    """The two rules of a norm's parameters."""
    return [
        KeyRule(f"{key}.weight", f"params/{path}/scale"),
        KeyRule(f"{key}.bias", f"params/{path}/bias"),
    ]


def batch_norm(key: str, path: str) -> list[KeyRule]:
    """The rules of a batch norm: parameters and running statistics."""
    return [
        *norm(key, path),
        KeyRule(f"{key}.running_mean", f"batch_stats/{path}/mean"),
        KeyRule(f"{key}.running_var", f"batch_stats/{path}/var"),
    ]


def attention(key: str, path: str) -> list[KeyRule]:
    """The rules of an attention layer with a fused q, k, v projection."""
    return [
        KeyRule(f"{key}.qkv.weight", f"params/{path}/qkv/kernel", QKV),
        KeyRule(f"{key}.qkv.bias", f"params/{path}/qkv/bias", QKV_BIAS),
        *norm(f"{key}.q_norm", f"{path}/q_norm"),
        *norm(f"{key}.k_norm", f"{path}/k_norm"),
        KeyRule(f"{key}.proj.weight", f"params/{path}/proj/kernel", PROJ),
        KeyRule(f"{key}.proj.bias", f"params/{path}/proj/bias"),
    ]


def mlp(key: str, path: str) -> list[KeyRule]:
    """The rules of a two-layer MLP."""
    return [
        *linear(f"{key}.fc1", f"{path}/fc1"),
        *linear(f"{key}.fc2", f"{path}/fc2"),
    ]


def find_path(key: str, rules: Iterable[KeyRule]) -> tuple[str, KeyRule] | None:
    """The first rule that matches a reference key, with our path."""
    for rule in rules:
        if _pattern(rule.key).fullmatch(key):  # few are: the others cost no call
            path = rule.path_of(key)
            if path is not None:
                return path, rule
    return None


def find_key(path: str, rules: Iterable[KeyRule]) -> tuple[str, KeyRule] | None:
    """The first rule that matches our path, with the reference key."""
    for rule in rules:
        if _pattern(rule.path).fullmatch(path):
            key = rule.key_of(path)
            if key is not None:
                return key, rule
    return None


_NUMBER = re.compile(r"\{([ij])(?:\+(\d+))?\}")


def _translate(name: str, source: str, target: str) -> str | None:
    match = _pattern(source).fullmatch(name)
    if match is None:
        return None
    offsets = {letter: int(offset or 0) for letter, offset in _NUMBER.findall(source)}
    found = match.groupdict()
    target = target.replace("{*}", found.pop("rest", ""))
    numbers = {i: int(n) - offsets[i] for i, n in found.items()}
    if any(n < 0 for n in numbers.values()):
        return None
    return _NUMBER.sub(lambda m: str(numbers[m[1]] + int(m[2] or 0)), target)


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    literals = re.split(r"\{[^}]*\}", template)
    wild = [
        "(?P<rest>.*)" if part == "{*}" else rf"(?P<{part[1]}>\d+)"
        for part in re.findall(r"\{[^}]*\}", template)
    ]
    parts = itertools.zip_longest(map(re.escape, literals), wild, fillvalue="")
    return re.compile("".join(itertools.chain(*parts)))
