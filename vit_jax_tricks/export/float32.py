"""Converts models to float32, the precision in which every model is exported."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.compress.inputs import check_float


def in_float32(model: nn.Module, variables: Any) -> tuple[Any, Any]:
    """The model and its variables, both in float32."""
    fields = {"dtype", "param_dtype"} & set(model.__dataclass_fields__)
    single: Any = dict.fromkeys(fields, jnp.float32)

    def convert(leaf: Any) -> Any:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, jnp.float32) if floating else leaf

    return model.clone(**single), jax.tree.map(convert, variables)


def exportable(fn: str, model: Any, variables: Any) -> tuple[Any, Any]:
    """`in_float32` with its arguments checked first; `fn` is the caller's name.

    Raises: UserError for a quantised model, and variables without parameters.
    """
    check_float(fn, model, variables)
    return in_float32(model, variables)
