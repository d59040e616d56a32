"""Array types for signatures: jaxtyping's, or stand-ins with the same names.

`checks.checked` reads them as data, so that shapes such as `Float[Array, "b n d"]` are
written once and apply everywhere; jaxtyping and beartype, which check the other
functions under pytest, are test dependencies. The letters: b batch, h w height and
width, c channels, n tokens, d width, g heads, k classes.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np


Array: TypeAlias = jax.Array | np.ndarray
Params: TypeAlias = dict[str, Any]

_PIXELS = ("uint8", "bfloat16", "float16", "float32", "float64")

if TYPE_CHECKING:
    from jaxtyping import (
        Bool,
        Float,
        Int,
        Integer,
        Key,
        Num,
        PRNGKeyArray,
        Shaped,
        UInt8,
        UInt32,
    )
    from jaxtyping import Num as Pixels
    from jaxtyping import Shaped as Label
else:
    try:
        from jaxtyping import (
            AbstractDtype,
            Bool,
            Float,
            Int,
            Integer,
            Key,
            Num,
            Shaped,
            UInt8,
            UInt32,
        )

        class Label(AbstractDtype):
            """Class labels, one-hot or soft."""

            dtypes = [*Num.dtypes, *Bool.dtypes]  # noqa: RUF012

        class Pixels(AbstractDtype):
            """Grey levels, or floats in [0, 1]."""

            dtypes = list(_PIXELS)  # noqa: RUF012

    except ImportError:

        def _dtype(name, *dtypes):
            """A stand-in that keeps what `checks` reads."""

            def of(_, item):
                of_array = {"array_type": item[0], "dim_str": item[1]}
                return type(name, (), of_array | {"dtype": kind, "dtypes": dtypes})

            kind = type(name, (), {"__class_getitem__": classmethod(of)})
            return kind

        _signed = [f"int{bits}" for bits in (2, 4, 8, 16, 32, 64)]
        _unsigned = [f"u{name}" for name in _signed]
        _float = ["bfloat16", "float16", "float32", "float64"]
        _float += [f"float8_{kind}" for kind in ("e4m3fn", "e5m2")]
        Bool = _dtype("Bool", "bool")
        Float = _dtype("Float", *_float)
        Int = _dtype("Int", *_signed)
        Integer = _dtype("Integer", *_signed, *_unsigned)
        Key = _dtype("Key", "prng_key")
        Label = _dtype("Label", "bool", *_signed, *_unsigned, *_float)
        Num = _dtype("Num", *_signed, *_unsigned, *_float)
        Pixels = _dtype("Pixels", *_PIXELS)
        Shaped = _dtype("Shaped")
        UInt8 = _dtype("UInt8", "uint8")
        UInt32 = _dtype("UInt32", "uint32")

    PRNGKeyArray = Key[jax.Array, ""]

__all__ = [
    "Array",
    "Bool",
    "Float",
    "Int",
    "Integer",
    "Key",
    "Label",
    "Num",
    "PRNGKeyArray",
    "Params",
    "Pixels",
    "Shaped",
    "UInt8",
    "UInt32",
]
