"""Array types for signatures: jaxtyping where it is installed, plain arrays elsewhere.

Shapes such as `Float[Array, "b n d"]` are checked only under pytest, so jaxtyping
and beartype are test dependencies. The letters: b batch, h w height and width,
c channels, n tokens, d width, g heads, k classes.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np


Array: TypeAlias = jax.Array | np.ndarray
Params: TypeAlias = dict[str, Any]

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num, PRNGKeyArray, Shaped, UInt8, UInt32
else:
    try:
        from jaxtyping import Bool, Float, Int, Num, PRNGKeyArray, Shaped, UInt8, UInt32
    except ImportError:

        class _Untyped:
            def __class_getitem__(cls, item):
                return item[0]

        Bool = Float = Int = Num = Shaped = UInt8 = UInt32 = _Untyped
        PRNGKeyArray = jax.Array

__all__ = [
    "Array",
    "Bool",
    "Float",
    "Int",
    "Num",
    "PRNGKeyArray",
    "Params",
    "Shaped",
    "UInt8",
    "UInt32",
]
