"""CoAtNet: convolution stages, then transformer stages with relative attention."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate
from typing import Any

import flax.linen as nn

from vit_jax_tricks.models import regularisers
from vit_jax_tricks.models.base import ImageModel
from vit_jax_tricks.models.blocks import BlockParts
from vit_jax_tricks.models.checks import check_images
from vit_jax_tricks.models.coatnet_block import TransformerBlock2d
from vit_jax_tricks.models.coatnet_checks import check_coatnet
from vit_jax_tricks.models.coatnet_parts import PooledHead, Stem, coatnet_blocks
from vit_jax_tricks.models.feature_maps import Level, keep
from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.conv import NORMS, norm2d
from vit_jax_tricks.models.layers.convnext import ConvNeXt
from vit_jax_tricks.models.layers.mbconv import MBConv
from vit_jax_tricks.models.registry import (
    HALF,
    IMAGENET,
    Entry,
    Preprocessing,
    register,
)
from vit_jax_tricks.models.stage import Stage
from vit_jax_tricks.models.token_head import TokenHead
from vit_jax_tricks.param_names import GENERAL
from vit_jax_tricks.typing import Array, Float, Num, Params


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


class CoAtNet(ImageModel):
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

    key_names = "vit_jax_tricks.pretrained.coatnet_rules:COATNET"
    # A stage is one layer, as in timm.
    roles = GENERAL.instead(blocks=(r"stages_(\d+)/.*",), between=()).also(
        no_decay=(r"stages_\d+/.*/rel_pos/.*",), in_float=("shortcut(?=/input$)",)
    )
    stochastic = (
        *ImageModel.stochastic,
        "transformer_attn_drop",
        "transformer_proj_drop",
        "transformer_rel_pos_drop",
    )
    depth_fields = ("depths",)
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
    def maps(self) -> list[tuple[int, int]]:
        """Rows and columns of the map after each stage."""
        h, w, _ = self.image_shape
        halves = range(2, 2 + len(self.depths))
        return [(-(-h // 2**i), -(-w // 2**i)) for i in halves]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last map."""
        return self.maps[-1]

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

    @property
    def feature_info(self) -> tuple[Level, ...]:
        """The feature maps: the stem and each stage. The norm fits the last."""
        widths = (self._stem_widths[-1], *self.embed_dim)
        names = ["stem", *(f"stages_{i}" for i in range(len(self.depths)))]
        return tuple(
            Level(name, width, 2 << i, normed=i == len(self.depths))
            for i, (name, width) in enumerate(zip(names, widths, strict=True))
        )

    @property
    def last_norm(self) -> Callable[..., nn.Module] | None:
        """Factory of the norm after the last stage; None with a hidden layer."""
        if self.head_hidden_size:
            return None
        norm = NORMS[self.transformer_norm_layer]
        return partial(norm, eps=self.transformer_norm_eps, **self.dtypes)

    @property
    def _stem_widths(self) -> tuple[int, int]:
        width = self.stem_width
        return (width, width) if isinstance(width, int) else width

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        check_coatnet(self)

    def blocks(self) -> list[BlockParts]:
        """The blocks of all stages; an MBConv has neither heads nor hidden units."""
        return coatnet_blocks(self)

    def token_head(self) -> TokenHead:
        """The classifier at each place of the last map."""
        exact = self.global_pool == "avg" and not self.head_hidden_size
        return TokenHead.at_each_place(self.grid, exact=exact)

    def place_logits(
        self, params: Params, places: Float[Array, "b n d"]
    ) -> Float[Array, "b n k"]:
        """The logits of each place, pooled alone."""
        maps = places.reshape(-1, 1, 1, places.shape[-1])
        head = self._head(drop_rate=0.0, parent=None)
        logits, _ = head.apply({"params": params["head"]}, maps, False)
        return logits.reshape(*places.shape[:2], -1)

    def _head(self, **fields: Any) -> PooledHead:
        return PooledHead(
            num_classes=self.num_classes,
            pool=self.global_pool,
            hidden=self.head_hidden_size,
            norm_layer=self.transformer_norm_layer,
            norm_eps=self.transformer_norm_eps,
            **self.dtypes,
            **fields,
        )

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w c"], train: bool = False
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        check_images(self, images)
        stem = Stem(
            self._stem_widths,
            self.stem_bias,
            self.conv_padding,
            self.conv_act_layer,
            *self.conv_norm,
            self.weight_init,
            name="stem",
            **self.dtypes,
        )
        x = stem(images.astype(self.dtype), train)
        keep(stem, x)
        rates = functional.drop_path_rates(self.drop_path_rate, sum(self.depths))
        ends = accumulate(self.depths)
        carry: dict[str, Any] = {}
        for i, (depth, end) in enumerate(zip(self.depths, ends, strict=True)):
            stage = Stage(
                self._blocks(i),
                tuple(rates[end - depth : end]),
                self.plan,
                self.scan_from,
                end - depth,
                name=f"stages_{i}",
            )
            x, carry = stage(x, train, carry)
            keep(stage, x)
        norm = (self.transformer_norm_layer, self.transformer_norm_eps)
        if not self.head_hidden_size:
            x = norm2d(*norm, name="norm", **self.dtypes)(x, train)
        head = self._head(drop_rate=self.drop_rate, name="head")
        logits, features = head(x, train)
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
        return partial(
            block,
            features,
            halve,
            **self.dtypes,
            **fields,
        )


PAPER = {
    "coatnet_0_224": (25_036_820, (96, 192, 384, 768), (2, 3, 5, 2), 64),
    "coatnet_1_224": (42_225_776, (96, 192, 384, 768), (2, 6, 14, 2), 64),
    "coatnet_2_224": (74_684_744, (128, 256, 512, 1024), (2, 6, 14, 2), 128),
    "coatnet_3_224": (166_966_264, (192, 384, 768, 1536), (2, 6, 14, 2), 192),
    "coatnet_4_224": (275_425_288, (192, 384, 768, 1536), (2, 12, 28, 2), 192),
    "coatnet_5_224": (687_472_008, (256, 512, 1280, 2048), (2, 12, 28, 2), 192),
}

# timm's widths by size.
NANO: dict[str, Any] = {"embed_dim": (64, 128, 256, 512), "stem_width": (32, 64)}
ZERO: dict[str, Any] = {
    "embed_dim": (96, 192, 384, 768),
    "depths": (2, 3, 7, 2),
    "stem_width": (32, 64),
}
ONE: dict[str, Any] = {**ZERO, "depths": (2, 6, 14, 2)}
TWO: dict[str, Any] = {
    **ONE,
    "embed_dim": (128, 256, 512, 1024),
    "stem_width": (64, 128),
}
THREE: dict[str, Any] = {
    **ONE,
    "embed_dim": (192, 384, 768, 1536),
    "stem_width": (96, 192),
}
# Shared by timm's variants: widths in the convolutions follow the input.
COMMON: dict[str, Any] = {
    "conv_expand_output": False,
    "conv_act_layer": "silu",
    "transformer_expand_first": False,
}
# timm's `_rw_max_cfg` as used by the smallest variants, and `_rw_coat_cfg`.
SMALL: dict[str, Any] = COMMON | NANO
RW: dict[str, Any] = COMMON | {
    "conv_pre_norm_act": True,
    "conv_output_bias": False,
    "conv_stride_mode": "pool",
    "conv_attn_act_layer": "relu",
}
DW = {"conv_stride_mode": "dw"}
EARLY = {"conv_attn_early": True, "transformer_shortcut_bias": False}
SILU = {"conv_attn_act_layer": "silu"}
SCALED = {"transformer_init_values": 1e-6}


def _mlp(hidden: int) -> dict[str, Any]:
    return {"transformer_rel_pos_type": "mlp", "transformer_rel_pos_dim": hidden}


TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "coatnet_pico_rw_224": (10_851_364, {**SMALL, "depths": (2, 3, 5, 2)}),
    "coatnet_nano_rw_224": (
        15_141_244,
        {**SMALL, "depths": (3, 4, 6, 3), "conv_stride_mode": "pool"},
    ),
    "coatnet_0_rw_224": (27_435_562, {**RW, **ZERO, **EARLY}),
    "coatnet_1_rw_224": (41_721_502, {**RW, **ONE, **EARLY, **DW}),
    "coatnet_2_rw_224": (73_868_400, {**RW, **TWO, **SILU, **DW}),
    "coatnet_3_rw_224": (181_805_305, {**RW, **THREE, **SILU, **DW, **SCALED}),
    "coatnet_bn_0_rw_224": (
        27_435_562,
        {**RW, **ZERO, **EARLY, **DW, "transformer_norm_layer": "batchnorm2d"},
    ),
    "coatnet_rmlp_nano_rw_224": (
        15_145_116,
        {**SMALL, "depths": (3, 4, 6, 3), **_mlp(384)},
    ),
    "coatnet_rmlp_0_rw_224": (27_446_074, {**RW, **ZERO, **DW, **_mlp(512)}),
    "coatnet_rmlp_1_rw_224": (
        41_691_982,
        {
            **RW,
            **ONE,
            **EARLY,
            **_mlp(384),
            "conv_pool_type": "max",
            "transformer_pool_type": "max",
        },
    ),
    "coatnet_rmlp_1_rw2_224": (41_724_622, {**RW, **ONE, **DW, **_mlp(512)}),
    **{
        f"coatnet_rmlp_2_rw_{size}": (
            73_881_264,
            {**RW, **TWO, **SILU, **DW, **SCALED, **_mlp(512)},
        )
        for size in (224, 384)
    },
    "coatnet_rmlp_3_rw_224": (
        165_152_788,
        {**RW, **THREE, **SILU, **DW, **SCALED, **_mlp(512)},
    ),
    "coatnet_nano_cc_224": (
        13_757_328,
        {
            **RW,
            **NANO,
            "depths": (3, 4, 6, 3),
            "block_type": ("C", "C", ("C", "T"), ("C", "T")),
        },
    ),
    "coatnext_nano_rw_224": (
        14_701_244,
        {
            **NANO,
            "depths": (3, 4, 6, 3),
            "weight_init": "normal",
            "conv_block_type": "convnext",
            "conv_init_values": 1e-5,
            "transformer_expand_first": False,
        },
    ),
}
# ImageNet-1k top-1: table 4 of the paper for its sizes (no weights were released), and
# timm's results-imagenet.csv with its default weights for the others.
TOP1 = {
    "coatnet_0_224": 81.6,
    "coatnet_1_224": 83.3,
    "coatnet_2_224": 84.1,
    "coatnet_3_224": 84.5,
    "coatnet_nano_rw_224": 81.704,
    "coatnet_0_rw_224": 82.396,
    "coatnet_1_rw_224": 83.620,
    "coatnet_2_rw_224": 86.582,
    "coatnet_bn_0_rw_224": 82.394,
    "coatnet_rmlp_nano_rw_224": 82.064,
    "coatnet_rmlp_1_rw_224": 83.350,
    "coatnet_rmlp_1_rw2_224": 84.940,
    "coatnet_rmlp_2_rw_224": 86.538,
    "coatnet_rmlp_2_rw_384": 87.388,
    "coatnext_nano_rw_224": 81.998,
}
CROP = {
    "coatnet_nano_rw_224": 0.9,
    "coatnet_rmlp_nano_rw_224": 0.9,
    "coatnext_nano_rw_224": 0.9,
    "coatnet_rmlp_2_rw_384": 1.0,
}
CLASSES = {"coatnet_3_rw_224": 11821}  # timm's weights are for ImageNet-12k
FULL = ("coatnet_0_224", "coatnet_0_rw_224", "coatnet_rmlp_1_rw_224")


def _golden(name: str) -> str:
    if name in FULL:
        return f"models_full/timm_{name}"
    small = {"coatnext": "small_coatnext", "coatnet_bn": "small_coatnet_bn"}
    small |= {"coatnet_rmlp": "small_coatnet_rmlp"}
    kind = "small_coatnet_rw0" if name in TIMM else "small_coatnet_paper"
    found = (golden for start, golden in small.items() if name.startswith(start))
    return f"models_small/{next(found, kind)}"


def _register(name: str, parameters: int, fields: dict[str, Any]) -> None:
    size = int(name.rsplit("_", 1)[-1])
    mean, std = IMAGENET if name == "coatnet_bn_0_rw_224" else HALF
    entry = Entry(
        family=CoAtNet,
        defaults={"img_size": size, **fields},
        preprocessing=Preprocessing(
            mean,
            std,
            CROP.get(name, 0.95),
            crop_mode="squash" if size == 384 else "center",
        ),
        parameters=parameters,
        parameters_classes=CLASSES.get(name, 1000),
        source="timm 1.0.31",
        dialect="timm",
        golden=_golden(name),
        top1=TOP1.get(name),
    )
    register(name, entry)


for _name, (_count, _widths, _depths, _stem) in PAPER.items():
    _fields = {"embed_dim": _widths, "depths": _depths, "stem_width": _stem}
    _register(_name, _count, {**_fields, "head_hidden_size": _widths[-1]})
for _name, (_count, _fields) in TIMM.items():
    _register(_name, _count, _fields)
