"""The parts of CoAtNet around its blocks: stem, stage, classifier."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional, initializers
from vit_jax_tricks.models.layers.conv import conv2d, norm2d
from vit_jax_tricks.models.layers.functional.pooling import GLOBAL_POOLS
from vit_jax_tricks.models.layers.head import Classifier
from vit_jax_tricks.typing import Array, Float


class Stem(nn.Module):
    """conv2(act(norm1(conv1(images)))): 3x3 with stride 2, then 3x3.

    Equivalent to the `Stem` of timm's maxxvit.
    """

    widths: tuple[int, int]
    use_bias: bool
    padding: str
    act_layer: str
    norm_layer: str
    norm_eps: float
    weight_init: str
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b i j d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def conv(
            name: str, features: int, stride: int, y: Float[Array, "b h w c"]
        ) -> Float[Array, "b i j d"]:
            return conv2d(
                features,
                3,
                stride=stride,
                padding=self.padding,
                use_bias=self.use_bias,
                name=name,
                **initializers.conv(self.weight_init, 9 * y.shape[-1]),
                **dtypes,
            )(y)

        x = conv("conv1", self.widths[0], 2, x)
        x = norm2d(self.norm_layer, self.norm_eps, name="norm1", **dtypes)(x, train)
        x = functional.ACTIVATIONS[self.act_layer](x)
        return conv("conv2", self.widths[1], 1, x)


class Stage(nn.Module):
    """Blocks in sequence, the first of which halves the map.

    `blocks` make the modules; equal ones are the same object. With `scan` the second
    block and those equal to it that follow are traced once, their parameters and
    statistics stacked under `blocks`; the first keeps its name `blocks_0`.
    """

    blocks: tuple[Callable[..., nn.Module], ...]
    scan: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], rates: tuple[float, ...], train: bool
    ) -> Float[Array, "b i j d"]:
        drops = train and any(rates)
        i = 0
        while i < len(self.blocks):
            block, run = self.blocks[i], 1
            if self.scan and i == 1:
                same = [other is block for other in self.blocks[1:]]
                run = [*same, False].index(False)
                scan = nn.scan(
                    lambda module, x, rate: (module(x, rate, train), None),
                    variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0},
                    split_rngs={"params": True, "dropout": True},
                    length=run,
                )
                some = jnp.asarray(rates[1 : 1 + run], jnp.float32) if drops else None
                x = scan(block(name="blocks"), x, some)[0]
            else:
                x = block(name=f"blocks_{i}")(x, rates[i] if drops else None, train)
            i += run
        return x


class PooledHead(nn.Module):
    """pool -> [norm -> tanh(pre_logits)] -> dropout -> fc, the bracket if `hidden`.

    Returns the logits and the input of `fc` before the dropout.
    Initialised as PyTorch does. Equivalent to timm's `ClassifierHead` and
    `NormMlpClassifierHead`.
    """

    num_classes: int
    pool: str
    hidden: int | None
    drop_rate: float
    norm_layer: str
    norm_eps: float
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w d"], train: bool
    ) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        inits = partial(initializers.linear, "")
        y = GLOBAL_POOLS[self.pool](x)
        if self.hidden:
            y = norm2d(self.norm_layer, self.norm_eps, name="norm", **dtypes)(y, train)
            hidden = nn.Dense(
                self.hidden, name="pre_logits", **inits(y.shape[-1]), **dtypes
            )
            y = jnp.tanh(hidden(y))
        head = Classifier(
            self.num_classes, self.drop_rate, inits=inits, name="fc", **dtypes
        )
        return head(y, train), y
