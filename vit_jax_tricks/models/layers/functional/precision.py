"""The dtype of sensitive arithmetic."""

from typing import Any

import jax.numpy as jnp


def at_least_float32(dtype: Any) -> Any:
    """`dtype`, or float32 where it has fewer bits: norms and softmax compute in it."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
