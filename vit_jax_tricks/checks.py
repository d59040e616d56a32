"""Checks shapes and dtypes of a public function's arrays when it is called.

`checked` reads the annotations of `typing` as data: the letters of all arguments are
bound together, `#b` may also be 1, `*b` stands for any number of axes, and `...` for
anything. The check runs while a program is traced, and costs nothing once compiled.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.errors import UserError


P = ParamSpec("P")
R = TypeVar("R")
Sizes = dict[str, tuple[Any, str]]  # letter -> its size or sizes, argument that set it

WORDS = {
    "Pixels": "uint8 or float",
    "Num": "number",
    "Label": "number or bool",
    "Shaped": "array",
}
ARRAYS = (jax.Array, np.ndarray, np.generic)
NUMBERS = (int, float)


class Form(NamedTuple):
    """One form that an array may have, such as `Float[Array, "*b k"]`."""

    kind: str
    dtypes: Any  # names; empty accepts any
    dims: tuple[str, ...]


class Accepted(NamedTuple):
    """Accepted values of an argument: an array of one of the forms, or another type."""

    forms: tuple[Form, ...]
    others: tuple[type, ...]
    parts: "Accepted | None"  # the values of a dict or sequence
    holder: type | None = None  # a tuple or class with arrays in `fields`
    fields: "Mapping[str, Accepted]" = types.MappingProxyType({})


def checked(fn: Callable[P, R]) -> Callable[P, R]:
    """Decorator that checks array arguments against their annotations.

    Keys of `jax.random.PRNGKey` are converted to those of `jax.random.key`, with the
    same draws.

    Raises: UserError, when the function is called, for a wrong shape or dtype.
    """
    parameters = inspect.signature(fn).parameters
    found = {name: _spec(p.annotation) for name, p in parameters.items()}
    specs = {name: spec for name, spec in found.items() if spec}
    places = [(i, name) for i, name in enumerate(found) if name in specs]
    keys = any(_is_key(spec) for spec in specs.values())
    where = fn.__name__

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        given = list(args) if keys else args
        sizes: Sizes = {}
        for place, name in places:
            if place < len(given):
                value = given[place]
            elif name in kwargs:
                value = kwargs[name]
            else:
                continue
            spec = specs[name]
            if _is_key(spec):
                value = _typed_key(where, name, value)
                if place < len(given):
                    given[place] = value  # pyright: ignore[reportIndexIssue]
                else:
                    kwargs[name] = value
            sizes = bind(where, name, value, spec, sizes)
        return fn(*given, **kwargs)  # pyright: ignore[reportCallIssue]

    run.checked = specs  # pyright: ignore[reportAttributeAccessIssue]
    return run


def bind(fn: str, name: str, value: Any, spec: Accepted, sizes: Sizes) -> Sizes:
    """Binds the letters of `value`; returns the sizes of all letters so far.

    Raises: UserError if it does not fit.
    """
    if isinstance(value, ARRAYS):
        dtype = "prng_key" if _has_keys(value) else str(value.dtype)
        for form in spec.forms:
            if not form.dtypes or dtype in form.dtypes:
                more = _fit(value.shape, form.dims, sizes, name)
                if more is not None:
                    if name == "images" and _channels_first(value.shape):
                        break
                    return more
    elif spec.holder and isinstance(value, spec.holder):
        for field, part in spec.fields.items():
            at = f"{name}.{field}"
            sizes = bind(fn, at, getattr(value, field), part, sizes)
        return sizes
    elif spec.parts and isinstance(value, Mapping):
        for field, part in value.items():  # each binds its letters separately
            bind(fn, f'{name}["{field}"]', part, spec.parts, sizes)
        return sizes
    elif spec.parts and isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            sizes = bind(fn, f"{name}[{i}]", part, spec.parts, sizes)
        return sizes
    elif isinstance(value, spec.others):
        return sizes
    raise UserError(
        f"{fn}: {name} is {given(value)}; expected {_expected(spec, sizes)}"
        f"{_hint(name, value, spec, sizes)}."
    )


def same_trees(fn: str, **trees: Any) -> None:
    """Checks that two trees of arrays have the same leaves, with the same shapes.

    Raises: UserError that names the first leaf that differs.
    """
    (name, tree), (other, like) = reversed(trees.items())
    leaves, want = (dict(jax.tree_util.tree_leaves_with_path(x)) for x in (tree, like))
    for path in [*want, *leaves]:
        at = jax.tree_util.keystr(path)
        one, two = leaves.get(path), want.get(path)
        if one is None or two is None:
            lacking, having = (name, other) if one is None else (other, name)
            raise UserError(f"{fn}: {lacking} lacks {at}, which {having} has.")
        for whose, leaf in ((name, one), (other, two)):
            if not isinstance(leaf, ARRAYS):
                raise UserError(f"{fn}: {whose}{at} is {given(leaf)}, not an array.")
        if one.shape != two.shape:
            raise UserError(
                f"{fn}: {name}{at} is {given(one)}; expected {list(two.shape)}, as "
                f"{other}."
            )


def given(value: Any) -> str:
    """Describes a value in words: float32[8, 10], a list, 0.5."""
    if isinstance(value, ARRAYS):
        return f"{value.dtype}{list(value.shape)}"
    if value is None or isinstance(value, (*NUMBERS, str)):
        return repr(value)
    return f"a {type(value).__name__}"


def _spec(annotation: Any) -> Accepted | None:
    """The shapes and dtypes that an annotation accepts; None if it names no arrays."""
    forms: dict[tuple, Form] = {}
    others: list[type] = []
    parts, holder, fields = None, None, {}
    for kind in _members(annotation):
        origin = typing.get_origin(kind)
        if hasattr(kind, "dim_str"):
            dims = tuple(kind.dim_str.split())
            known = kind.dtypes if isinstance(kind.dtypes, tuple | list) else ()
            dtypes = tuple(d for d in known if not str(d).startswith("complex"))
            form = Form(kind.dtype.__name__, dtypes, dims)
            forms[form.kind, dims] = form
        elif isinstance(origin, type):
            inside = _spec(typing.get_args(kind)[-1]) if typing.get_args(kind) else None
            parts = inside or parts
            others += [] if inside else [origin]
        elif kind is float:
            others += NUMBERS
        elif isinstance(kind, type):
            named = typing.get_type_hints(kind) if hasattr(kind, "_fields") else {}
            named = getattr(kind, "array_fields", named)
            held = {n: _spec(of) for n, of in named.items()}
            if any(held.values()):
                holder, fields = kind, {n: spec for n, spec in held.items() if spec}
            else:
                others.append(kind)
        else:
            return None
    if any(form.kind == "Key" for form in forms.values()):
        forms = {k: form for k, form in forms.items() if form.kind == "Key"}
    if not (forms or parts or holder):
        return None
    return Accepted(tuple(forms.values()), tuple(others), parts, holder, fields)


def _members(annotation: Any) -> tuple:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _fit(
    shape: tuple[Any, ...], dims: tuple[str, ...], sizes: Sizes, name: str
) -> Sizes | None:
    """The sizes after binding this shape, or None if it does not fit."""
    many = next((i for i, d in enumerate(dims) if d[0] in "*."), None)
    if many is None:
        if len(shape) != len(dims):
            return None
    else:
        extra = len(shape) - len(dims) + 1
        if extra < 0:
            return None
        whole = shape[many : many + extra]
        shape = (*shape[:many], whole, *shape[many + extra :])
    sizes = dict(sizes)
    for dim, size in zip(dims, shape, strict=True):
        if dim == "...":
            continue
        if dim.isdigit():
            if size != int(dim):
                return None
            continue
        letter = dim.lstrip("#")
        if letter != dim and size == 1:
            continue
        if sizes.setdefault(letter, (size, name))[0] != size:
            return None
    return sizes


def _channels_first(shape: Sequence[Any]) -> bool:
    """Whether images look like [b, c, h, w]; an exported batch has a symbol for b."""
    return len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) > 4


def _expected(spec: Accepted, sizes: Sizes) -> str:
    texts: list[str] = []
    whose: dict[str, None] = {}
    for form in spec.forms:
        text = WORDS.get(form.kind, form.kind.lower())
        text += f" [{', '.join(form.dims)}]" if form.dims != ("...",) else ""
        known = [sizes[d.lstrip("#")] for d in form.dims if d.lstrip("#") in sizes]
        if known:
            text += f" = [{', '.join(map(str, _sizes(form, sizes)))}]"
            whose |= dict.fromkeys(name for _, name in known)
        texts.append(text)
    text = " or ".join(texts) + (f", as {', '.join(whose)}" if whose else "")
    more = ["a number"] if set(NUMBERS) <= set(spec.others) else []
    more += ["a dict of them"] if spec.parts and texts else []
    more += [f"a {spec.holder.__name__}"] if spec.holder else []
    return (", or " if whose else " or ").join([text, *more] if texts else more)


def _sizes(form: Form, sizes: Sizes) -> list[Any]:
    """Size of each axis, or its letter if unknown."""
    known = (sizes.get(dim.lstrip("#"), (dim, ""))[0] for dim in form.dims)
    return [n for size in known for n in (size if type(size) is tuple else (size,))]


def _hint(name: str, value: Any, spec: Accepted, sizes: Sizes) -> str:
    """': ' and what to type instead, or '' if unknown."""
    if any(form.kind == "Key" for form in spec.forms):
        return ": type jax.random.key(0)"
    if not isinstance(value, ARRAYS):
        some = hasattr(value, "__len__") and not isinstance(value, (str, Mapping))
        return f": type jnp.asarray({name})" if some and spec.forms else ""
    kinds, shape = {form.kind for form in spec.forms}, list(value.shape)
    want = _sizes(spec.forms[0], sizes) if spec.forms else []
    if name == "images" and _channels_first(shape):
        return ": channels come last, type jnp.moveaxis(images, 1, -1)"
    if name == "images" and (len(want), len(shape)) == (4, 3):
        return ": type images[None] for one image"
    if name.endswith("labels") and shape in (want[:-1], [*want[:-1], 1]):
        return f": type jax.nn.one_hot(ids, {want[-1]}) for class ids"
    if name.endswith("labels") and len(shape) == 2 and shape[:1] == want:
        return ": type jnp.argmax(labels, -1) for the most probable class"
    if name == "where" and shape == [*want, 1]:
        return ": type where[..., 0]"
    if any(not form.dtypes or str(value.dtype) in form.dtypes for form in spec.forms):
        return ""
    if name == "images" and "Float" in kinds and not _is_float(value):
        return ": type (images / 255 - mean) / std for grey levels 0 to 255"
    if "Bool" in kinds:
        return f": type {name} > 0"
    if "Pixels" in kinds and jnp.issubdtype(value.dtype, jnp.integer):
        return f": type {name}.astype(jnp.uint8) for grey levels 0 to 255"
    if kinds & {"Float", "Num", "Pixels"} and not _is_float(value):
        return f": type {name}.astype(jnp.float32)"
    return ""


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def _has_keys(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _is_key(spec: Accepted) -> bool:
    return any(form.kind == "Key" for form in spec.forms)


def _typed_key(fn: str, name: str, value: Any) -> Any:
    """Converts keys of the old kind, uint32 [..., 2], to the new kind."""
    if not isinstance(value, ARRAYS) or str(value.dtype) != "uint32":
        return value
    try:
        return jax.random.wrap_key_data(jnp.asarray(value))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{fn}: {name} is {given(value)}, not a valid key: type jax.random.key(0)."
        ) from error
