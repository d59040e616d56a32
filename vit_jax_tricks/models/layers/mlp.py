"""Two-layer MLP of a transformer block."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional, gates, initializers
from vit_jax_tricks.typing import Array, Float


class Mlp(nn.Module):
    """MLP fc2(act(fc1(x))), with dropout after the activation and after fc2.

    Follows timm's `Mlp`. `out_drop` is the rate of the second dropout if it differs,
    and `features` the output width if it differs from the input's. `norm` builds a norm
    before fc2. `out_bias` says whether fc2 has a bias, if that differs from `use_bias`.
    `out_gain` multiplies the initial kernel of fc2. The gate `hidden` [m] is that of
    `layers.gates`.
    """

    hidden: int
    act: str = "gelu"
    drop: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    features: int | None = None
    out_drop: float | None = None
    use_bias: bool = True
    inits: Callable[[int], initializers.Inits] = initializers.vit
    norm: Callable[..., nn.Module] | None = None
    out_bias: bool | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*s d"],
        train: bool,
        out_gain: Float[Array, ""] | float | None = None,
    ) -> Float[Array, "*s f"]:
        dense = partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        last = self.use_bias if self.out_bias is None else self.out_bias
        drop = partial(nn.Dropout, deterministic=not train)
        features = self.features or x.shape[-1]
        inits = self.inits(x.shape[-1])
        y = dense(self.hidden, use_bias=self.use_bias, name="fc1", **inits)(x)
        units = gates.find(self, "hidden", self.hidden)
        y = functional.gated(functional.ACTIVATIONS[self.act](y), units)
        y = drop(self.drop)(y)
        if self.norm is not None:
            y = self.norm(name="norm")(y, units)
        inits = initializers.scaled(self.inits(self.hidden), out_gain)
        y = dense(features, use_bias=last, name="fc2", **inits)(y)
        return drop(self.drop if self.out_drop is None else self.out_drop)(y)
