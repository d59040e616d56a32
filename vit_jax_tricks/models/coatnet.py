"""CoAtNet: convolution stages, then transformer stages with relative attention."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models import regularisers
from vit_jax_tricks.models.checks import check_images
from vit_jax_tricks.models.coatnet_block import TransformerBlock2d
from vit_jax_tricks.models.coatnet_checks import check_coatnet
from vit_jax_tricks.models.coatnet_parts import PooledHead, Stem
from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.conv import norm2d
from vit_jax_tricks.models.layers.convnext import ConvNeXt
from vit_jax_tricks.models.layers.mbconv import MBConv
from vit_jax_tricks.models.stage import Stage
from vit_jax_tricks.typing import Array, Float, Num


# MaxViT options of timm's blocks that its CoAtNet does not read.
_MAXVIT_ONLY = frozenset(
    {
        "conv_norm_layer_cl",
        "transformer_norm_layer_cl",
        "transformer_head_first",
        "transformer_partition_ratio",
        "transformer_window_size",
        "transformer_grid_size",
        "transformer_no_block_attn",
        "transformer_use_nchw_attn",
    }
)
_OTHER_NAMES = regularisers.MAPS | {
    "attn_drop_rate": "use transformer_attn_drop.",
    "init_values": "use conv_init_values and transformer_init_values.",
}


class CoAtNet(nn.Module):
    """Convolutional stem -> stages that halve the map -> mean over the map -> linear.

    Returns `(logits, aux)`; `aux` holds `tokens` [b, n, d], the last map (after the
    last norm if the head has no hidden layer), and `features` [b, d], the classifier's
    input. With `num_classes=0` the logits are the features.

    `block_type` gives the blocks of each stage: "C" convolution, "T" transformer, or a
    tuple with one for each block, the last repeated: ("C", "T"). Field names are those
    of timm's `MaxxVitCfg`, with its `conv_cfg` under `conv_...` and its
    `transformer_cfg` under `transformer_...`; the nested `cfg`, `conv_cfg` and
    `transformer_cfg` are also accepted. `conv_block_type` is "mbconv" or "convnext".
    Additions: `scan` (traces the equal blocks of a stage, from the second on, once),
    `remat`, and `transformer_rel_pos_drop` (dropout inside the MLP of relative
    positions, which timm fixes at 1/8).

    Source: Dai et al., 2021, arXiv:2106.04803; options and variants of timm's
    `MaxxVit`.
    """

    img_size: int | tuple[int, int] = 224
    in_chans: int = 3
    num_classes: int = 1000
    global_pool: str = "avg"
    embed_dim: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 3, 5, 2)
    block_type: tuple[str | tuple[str, ...], ...] = ("C", "C", "T", "T")
    stem_width: int | tuple[int, int] = 64
    stem_bias: bool = False
    head_hidden_size: int | None = None
    weight_init: str = "vit_eff"
    conv_block_type: str = "mbconv"
    conv_expand_ratio: float = 4.0
    conv_expand_output: bool = True
    conv_kernel_size: int = 3
    conv_group_size: int = 1
    conv_pre_norm_act: bool = False
    conv_output_bias: bool = True
    conv_stride_mode: str = "dw"
    conv_pool_type: str = "avg2"
    conv_downsample_pool_type: str = "avg2"
    conv_padding: str = ""
    conv_attn_early: bool = False
    conv_attn_layer: str = "se"
    conv_attn_act_layer: str = "silu"
    conv_attn_ratio: float = 0.25
    conv_init_values: float | None = 1e-6
    conv_act_layer: str = "gelu"
    conv_norm_layer: str = ""
    conv_norm_eps: float | None = None
    transformer_dim_head: int = 32
    transformer_expand_ratio: float = 4.0
    transformer_expand_first: bool = True
    transformer_shortcut_bias: bool = True
    transformer_attn_bias: bool = True
    transformer_attn_drop: float = 0.0
    transformer_proj_drop: float = 0.0
    transformer_pool_type: str = "avg2"
    transformer_rel_pos_type: str = "bias"
    transformer_rel_pos_dim: int = 512
    transformer_rel_pos_drop: float = 0.125
    transformer_init_values: float | None = None
    transformer_act_layer: str = "gelu"
    transformer_norm_layer: str = "layernorm2d"
    transformer_norm_eps: float = 1e-6
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    # `scan` stacks the blocks of each stage from the second on.
    scan_from = 1
    refuses = _OTHER_NAMES

    @staticmethod
    def flatten(overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Converts timm's nested configuration to fields, without MaxViT's options."""
        nested = {**overrides.get("cfg", {}), **overrides}
        flat = {k: v for k, v in nested.items() if not k.endswith("cfg")}
        for part in ("conv", "transformer"):
            options = nested.get(f"{part}_cfg", {})
            flat |= {f"{part}_{k}": v for k, v in options.items()}
        return {k: v for k, v in flat.items() if k not in _MAXVIT_ONLY}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an input image."""
        size = self.img_size
        h, w = (size, size) if isinstance(size, int) else size
        return h, w, self.in_chans

    @property
    def maps(self) -> list[tuple[int, int]]:
        """Rows and columns of the map after each stage."""
        h, w, _ = self.image_shape
        halves = range(2, 2 + len(self.depths))
        return [(-(-h // 2**i), -(-w // 2**i)) for i in halves]

    @property
    def conv_norm(self) -> tuple[str, float]:
        """Norm of the convolution blocks and its epsilon, with timm's defaults."""
        mbconv = self.conv_block_type == "mbconv"
        kind = self.conv_norm_layer or ("batchnorm2d" if mbconv else "layernorm2d")
        eps = self.conv_norm_eps
        return kind, (1e-5 if mbconv else 1e-6) if eps is None else eps

    def block_types(self, stage: int) -> tuple[str, ...]:
        """ "C" or "T" for each block of a stage."""
        types, depth = self.block_type[stage], self.depths[stage]
        types = (types,) if isinstance(types, str) else types
        return (types + types[-1:] * depth)[:depth]

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        check_coatnet(self)

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w c"], train: bool = False
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        check_images(self, images)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        widths = self.stem_width
        widths = (widths, widths) if isinstance(widths, int) else widths
        x = Stem(
            widths,
            self.stem_bias,
            self.conv_padding,
            self.conv_act_layer,
            *self.conv_norm,
            self.weight_init,
            name="stem",
            **dtypes,
        )(images.astype(self.dtype), train)
        rates = functional.drop_path_rates(self.drop_path_rate, sum(self.depths))
        ends = accumulate(self.depths)
        for i, (depth, end) in enumerate(zip(self.depths, ends, strict=True)):
            stage = Stage(
                self._blocks(i), self.scan, self.scan_from, name=f"stages_{i}"
            )
            x = stage(x, tuple(rates[end - depth : end]), train)
        norm = (self.transformer_norm_layer, self.transformer_norm_eps)
        if not self.head_hidden_size:
            x = norm2d(*norm, name="norm", **dtypes)(x, train)
        logits, features = PooledHead(
            self.num_classes,
            self.global_pool,
            self.head_hidden_size,
            self.drop_rate,
            *norm,
            name="head",
            **dtypes,
        )(x, train)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        return logits, {"tokens": tokens, "features": features}

    def _blocks(self, stage: int) -> tuple[Callable[..., nn.Module], ...]:
        """Factory of each block of a stage; equal blocks share the same object."""
        made: dict[tuple[str, bool], Callable[..., nn.Module]] = {}
        blocks = []
        for i, kind in enumerate(self.block_types(stage)):
            key = (kind, i == 0)
            if key not in made:
                made[key] = self._block(kind, self.embed_dim[stage], halve=i == 0)
            blocks.append(made[key])
        return tuple(blocks)

    def _block(
        self, kind: str, features: int, *, halve: bool
    ) -> Callable[..., nn.Module]:
        block, prefix = TransformerBlock2d, "transformer_"
        if kind == "C":
            block = ConvNeXt if self.conv_block_type == "convnext" else MBConv
            prefix = "conv_"
        fields = {
            name: getattr(self, prefix + name)
            for name in block.__dataclass_fields__
            if hasattr(self, prefix + name)
        }
        if kind == "C":
            fields["norm_layer"], fields["norm_eps"] = self.conv_norm
            fields["downsample_pool_type"] = (
                self.conv_downsample_pool_type or self.conv_pool_type
            )
        if "weight_init" in block.__dataclass_fields__:
            fields["weight_init"] = self.weight_init
        if self.remat:
            block = nn.remat(block, prevent_cse=not self.scan, static_argnums=(3,))
        return partial(
            block,
            features,
            halve,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            **fields,
        )
