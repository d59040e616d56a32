"""CoAtNet's stem, classifier and list of blocks."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.blocks import BlockParts, block_parts
from vit_jax_tricks.models.layers import functional, initializers
from vit_jax_tricks.models.layers.conv import conv2d, norm2d
from vit_jax_tricks.models.layers.functional.pooling import GLOBAL_POOLS
from vit_jax_tricks.models.layers.head import Classifier
from vit_jax_tricks.typing import Array, Float


TORCH = partial(initializers.linear, "")  # PyTorch's default initialisation


class Stem(nn.Module):
    """Stem conv2(act(norm1(conv1(images)))): 3x3 with stride 2, then 3x3.

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


class PreLogits(nn.Module):
    """Hidden layer of the classifier: tanh(fc(x))."""

    features: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b f"]:
        fc = nn.Dense(
            self.features,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="fc",
            **TORCH(x.shape[-1]),
        )
        return jnp.tanh(fc(x))


class PooledHead(nn.Module):
    """pool -> [norm -> pre_logits] -> dropout -> fc; the brackets need `hidden`.

    Returns the logits and the input of `fc` before the dropout. Initialised as in
    PyTorch. Equivalent to timm's `ClassifierHead` and `NormMlpClassifierHead`.
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

        y = GLOBAL_POOLS[self.pool](x)
        if self.hidden:
            y = norm2d(self.norm_layer, self.norm_eps, name="norm", **dtypes)(y, train)
            y = PreLogits(self.hidden, name="pre_logits", **dtypes)(y)
        fc = Classifier(
            self.num_classes, self.drop_rate, inits=TORCH, name="fc", **dtypes
        )
        return fc(y, train), y


def coatnet_blocks(model: Any) -> list[BlockParts]:
    """`ImageModel.blocks` of a `CoAtNet`."""
    widths, found = model.stem_width, []
    width = widths if isinstance(widths, int) else widths[-1]
    for stage, features in enumerate(model.embed_dim):
        for i, kind in enumerate(model.block_types(stage)):
            sizes = {}
            if kind == "T":
                attended = features if model.transformer_expand_first else width
                sizes["num_heads"] = attended // model.transformer_dim_head
                hidden = features * model.transformer_expand_ratio
                sizes["mlp_hidden"] = int(hidden)
            elif model.conv_block_type == "convnext":
                sizes["mlp_hidden"] = int(model.conv_expand_ratio * features)
            path, width = f"stages_{stage}/blocks_{i}", features
            found.append(block_parts(path, sizes, stage=stage))
    return found
