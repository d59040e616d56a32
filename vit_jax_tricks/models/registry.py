"""Model registry: the module, preprocessing and parameter count of each model name."""

import dataclasses
import fnmatch
import types
import typing
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.models import regularisers
from vit_jax_tricks.models.base import ImageModel
from vit_jax_tricks.models.stack import check_hooks


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of evaluation images: pixels in [0, 1] minus mean, over std.

    "center" resizes the shorter side to floor(img_size / crop_pct), "squash" both
    sides; the centre is then cropped.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float
    interpolation: str = "bicubic"
    crop_mode: str = "center"


@dataclasses.dataclass(frozen=True)
class Entry:
    """Registry entry of a model name.

    `parameters` is the count for `parameters_classes` classes, the reference's default
    (0: no head). `source` is the reference implementation, and `dialect` the key naming
    in which weights are exported. `golden` is the file below tests/golden that checks
    the model: its own, or that of a small model built by the same code. `top1` is the
    published ImageNet-1k accuracy in per cent.
    """

    family: type[ImageModel]
    defaults: Mapping[str, Any]
    preprocessing: Preprocessing
    parameters: int
    parameters_classes: int
    source: str
    dialect: str
    golden: str
    top1: float | None = None


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

_ENTRIES: dict[str, Entry] = {}


def register(name: str, entry: Entry) -> None:
    """Registers a model name."""
    if name in _ENTRIES:
        raise KeyError(f"{name} is registered twice")
    _ENTRIES[name] = entry


def lookup(name: str) -> Entry:
    """Returns the entry of a model name. Raises UserError for an unknown name."""
    if name not in _ENTRIES:
        raise UserError(f'Unknown model "{name}".{_hint(name)}')
    return _ENTRIES[name]


def list_models(pattern: str = "*") -> list[str]:
    """Lists the model names that match a shell pattern such as "deit_*", sorted."""
    return sorted(fnmatch.filter(_ENTRIES, pattern))


def preprocessing(name: str) -> Preprocessing:
    """Returns the preprocessing of a model's evaluation images."""
    return lookup(name).preprocessing


def channel_statistics(
    model: str, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the model; grey images use their average."""
    prep = preprocessing(model)
    if channels == len(prep.mean):
        return tuple(prep.mean), tuple(prep.std)
    mean = sum(prep.mean) / len(prep.mean)
    std = sum(prep.std) / len(prep.std)
    return (mean,) * channels, (std,) * channels


def create_model(
    name: str, num_classes: int | None = None, **overrides: Any
) -> ImageModel:
    """Builds a model by name: `create_model("deit_small_patch16_224", 10, depth=6)`.

    `num_classes` defaults to the number in the reference: 1000 for most models, the
    width of the joint embedding for a CLIP tower, and 0 (no head) if the published
    weights have no head, as with DINOv2 and SigLIP.

    Overrides are the fields of the family's module, named as in timm. `dtype` and
    `param_dtype` may be strings, and `init_values` may be "depth" for CaiT's rule
    (`functional.layer_scale_start`); a family's `flatten` unpacks the reference's
    nested options. `model.apply(variables, images, train=False)` returns `(logits,
    aux)` for normalised images [b, h, w, c].

    Raises:
        UserError: an unknown name or override, a value of the wrong type, or fields
        that contradict one another.
    """
    entry = lookup(name)
    classes = entry.parameters_classes if num_classes is None else num_classes
    given = {"num_classes": classes, **entry.family.flatten(overrides)}
    types_ = _field_types(entry.family)
    values = {}
    for key, value in given.items():
        if key not in types_:
            regularisers.check_refused(entry.family, name, key)
            raise UserError(f'{name} has no override "{key}".{nearest(key, types_)}')
        kept = regularisers.is_by_depth(key, value)
        values[key] = value if kept else _convert(key, value, types_[key])
    fields = regularisers.by_depth(entry.family, {**entry.defaults, **values})
    model = entry.family(**fields)
    model.check()
    check_hooks(model)
    return model


def _hint(name: str) -> str:
    hint = nearest(name, _ENTRIES)
    return hint if "Did you mean" in hint else " list_models() lists all names."


def _field_types(family: type[ImageModel]) -> dict[str, Any]:
    hints = typing.get_type_hints(family)
    fields = [f.name for f in dataclasses.fields(family)]
    return {f: hints[f] for f in fields if f not in ("parent", "name")}


def _convert(key: str, value: Any, expected: Any) -> Any:
    """Converts a value to the field's type: lists to tuples, integers to floats."""
    if key in ("dtype", "param_dtype"):
        return _dtype(key, value)
    if key == "hooks":
        return tuple(value)  # of functions: `check_hooks`
    value = _tuples(value)
    options = typing.get_args(expected)
    if typing.get_origin(expected) not in (types.UnionType, typing.Union):
        options = (expected,)
    if not any(_fits(value, option) for option in options):
        names = " or ".join(getattr(o, "__name__", str(o)) for o in options)
        raise UserError(
            f"{key}={value!r} is a {type(value).__name__}; it must be {names}."
        )
    if float in options and int not in options and isinstance(value, int):
        return float(value)
    return value


def _tuples(value: Any) -> Any:
    """Converts lists to tuples at every depth, because fields must be hashable."""
    if isinstance(value, list | tuple):
        return tuple(map(_tuples, value))
    return value


def _fits(value: Any, option: Any) -> bool:
    if typing.get_origin(option) in (types.UnionType, typing.Union):
        return any(_fits(value, one) for one in typing.get_args(option))
    if typing.get_origin(option) is tuple:
        items = typing.get_args(option)
        if items[-1] is Ellipsis and isinstance(value, tuple):
            items = items[:1] * len(value)
        return (
            isinstance(value, tuple)
            and len(value) == len(items)
            and all(map(_fits, value, items))
        )
    if isinstance(value, bool):
        return option is bool
    if option is float:
        return isinstance(value, int | float)
    return isinstance(value, option)


def _dtype(key: str, value: Any) -> Any:
    valid = ("float32", "bfloat16", "float16", "float64")
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in valid:
        raise UserError(f"{key}={value!r} is unknown; use one of {', '.join(valid)}.")
    return dtype
