"""The two-layer perceptron of a transformer block."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional, initializers
from vit_jax_tricks.typing import Array, Float


class Mlp(nn.Module):
    """fc2(act(fc1(x))), dropout after the activation and after fc2, as timm's `Mlp`.

    `out_drop` is the second dropout's rate where it differs, `features` the output's
    width where it is not the input's. `norm` makes a norm before fc2, `out_bias` is
    whether fc2 has a bias where that differs; `out_gain` multiplies fc2's initial
    kernel.
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
        y = drop(self.drop)(functional.ACTIVATIONS[self.act](y))
        if self.norm is not None:
            y = self.norm(name="norm")(y)
        inits = initializers.scaled(self.inits(self.hidden), out_gain)
        y = dense(features, use_bias=last, name="fc2", **inits)(y)
        return drop(self.drop if self.out_drop is None else self.out_drop)(y)
