"""Gated MLP of a transformer block."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional, gates, initializers
from vit_jax_tricks.typing import Array, Float


class GatedMlp(nn.Module):
    """Gated MLP fc2(norm(act(g) * y)), (g, y) = (fc1_g(x), fc1_x(x)).

    Dropout is applied after the gate and after fc2. With `act="silu"` this is SwiGLU.
    `packed` uses one layer `fc1` of twice the width for both, gates first; `norm`
    builds the norm; `out_gain` multiplies the initial kernel of fc2. The gate `hidden`
    [m] is that of `layers.gates`. Equivalent to timm's `SwiGLU` and `SwiGLUPacked`.

    Source: Shazeer, 2020, arXiv:2002.05202.
    """

    hidden: int
    act: str = "silu"
    drop: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    packed: bool = False
    norm: Callable[..., nn.Module] | None = None
    use_bias: bool = True
    inits: Callable[[int], initializers.Inits] = initializers.vit

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*s d"],
        train: bool,
        out_gain: Float[Array, ""] | float | None = None,
    ) -> Float[Array, "*s d"]:
        d = x.shape[-1]
        dense = partial(
            nn.Dense,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        drop = partial(nn.Dropout, self.drop, deterministic=not train)
        if self.packed:
            both = dense(2 * self.hidden, name="fc1", **self.inits(d))(x)
            gate, y = jnp.split(both, 2, axis=-1)
        else:
            gate = dense(self.hidden, name="fc1_g", **self.inits(d))(x)
            y = dense(self.hidden, name="fc1_x", **self.inits(d))(x)
        units = gates.find(self, "hidden", self.hidden)
        y = functional.gated(functional.ACTIVATIONS[self.act](gate) * y, units)
        y = drop()(y)
        if self.norm is not None:
            y = self.norm(name="norm")(y, units)
        inits = initializers.scaled(self.inits(self.hidden), out_gain)
        return drop()(dense(d, name="fc2", **inits)(y))
