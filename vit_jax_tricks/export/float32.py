"""Converts models to float32, the precision in which every model is exported."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def in_float32(model: nn.Module, variables: Any) -> tuple[Any, Any]:
    """The model and its variables, both in float32."""
    fields = {"dtype", "param_dtype"} & set(model.__dataclass_fields__)
    single: Any = dict.fromkeys(fields, jnp.float32)

    def convert(leaf: Any) -> Any:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, jnp.float32) if floating else leaf

    return model.clone(**single), jax.tree.map(convert, variables)
