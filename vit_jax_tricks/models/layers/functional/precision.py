"""Precision of numerically sensitive operations."""

from typing import Any

import jax.numpy as jnp


def at_least_float32(dtype: Any) -> Any:
    """`dtype`, or float32 if it has fewer bits; used by norms and softmax."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
