"""CaiT: talking-heads attention among patches, then class attention."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models import checks
from vit_jax_tricks.models.block import Block
from vit_jax_tricks.models.blocks import BlockParts, block_parts, numbered
from vit_jax_tricks.models.feature_maps import Level, block_levels
from vit_jax_tricks.models.late_class_token import LateClassToken
from vit_jax_tricks.models.layers import functional, gates
from vit_jax_tricks.models.layers.drop import PatchDropout
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.models.layers.norm import LayerNorm, LayerScale
from vit_jax_tricks.models.layers.talking_heads import (
    ClassAttention,
    TalkingHeadsAttention,
)
from vit_jax_tricks.models.registry import IMAGENET, Entry, Preprocessing, register
from vit_jax_tricks.models.stack import Plan, run_stack
from vit_jax_tricks.param_names import GENERAL
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float


class ClassAttentionBlock(nn.Module):
    """Updates the class token c from the patches x, which stay unchanged.

    c <- c + gamma1 * attn(norm1([c, x])); c <- c + gamma2 * mlp(norm2(c)).

    Source: Touvron et al., 2021, arXiv:2103.17239; timm's `LayerScaleBlockClassAttn`.
    """

    num_heads: int
    head_dim: int
    mlp_hidden: int
    qkv_bias: bool = True
    init_values: float = 1e-4
    act_layer: str = "gelu"
    norm_eps: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        cls_token: Float[Array, "b 1 d"],
        drop_path: None,
        train: bool,
        patches: Float[Array, "b n d"],
    ) -> Float[Array, "b 1 d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(LayerNorm, self.norm_eps, **dtypes)
        scale = partial(LayerScale, self.init_values, **dtypes)
        attn = ClassAttention(
            self.num_heads, self.head_dim, self.qkv_bias, name="attn", **dtypes
        )
        mlp = Mlp(self.mlp_hidden, self.act_layer, name="mlp", **dtypes)
        width = gates.find(self, "width", patches.shape[-1])
        depth = gates.find(self, "depth")

        def branch(y: Float[Array, "b 1 d"]) -> Float[Array, "b 1 d"]:
            return functional.gated(functional.gated(y, width), depth, units=0)

        both = jnp.concatenate([cls_token, patches], axis=1)
        y = attn(norm(name="norm1")(both, width))
        cls_token = cls_token + branch(scale(name="ls1")(y))
        y = mlp(norm(name="norm2")(cls_token, width), train)
        return constrain(cls_token + branch(scale(name="ls2")(y)))


class CaiT(LateClassToken):
    """Patches + positions -> talking-heads blocks -> class-attention blocks -> linear.

    Returns the same as `LateClassToken`. Field names and meanings are those of timm's
    `Cait`: all `depth` blocks have the same drop path rate, and the `depth_token_only`
    class-attention blocks have none. Addition: `patch_drop_rate` as in
    `VisionTransformer`. `scan` and `remat` apply to the patch blocks.

    Source: Touvron et al., 2021, arXiv:2103.17239; facebookresearch/deit.
    """

    embed_dim: int = 768
    qkv_bias: bool = True
    init_values: float = 1e-4
    patch_drop_rate: float = 0.0
    depth_token_only: int = 2
    mlp_ratio_token_only: float = 4.0

    key_names = "vit_jax_tricks.pretrained.cait_rules:CAIT"
    # As timm groups them, class attention learns at the rates of the last blocks.
    roles = GENERAL.also(last=(r"blocks_token_only_(\d+)/.*",))
    stochastic = (*LateClassToken.stochastic, "patch_drop_rate")

    @property
    def width(self) -> int:
        """Channels of each token."""
        return self.embed_dim

    @property
    def feature_info(self) -> tuple[Level, ...]:
        """The feature maps: the output of each block of patches alone."""
        return block_levels(self.depth, self.embed_dim, self.patch_size)

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        super().check()
        checks.check_least(self, {"depth_token_only": 0})
        checks.check_heads(self)

    def blocks(self) -> list[BlockParts]:
        """The blocks of the patches, then those of the class token."""
        ratios = (self.mlp_ratio, self.mlp_ratio_token_only)
        patches, token = (
            {"num_heads": self.num_heads, "mlp_hidden": int(self.embed_dim * ratio)}
            for ratio in ratios
        )
        last = range(self.depth_token_only)
        names = [f"blocks_token_only_{i}" for i in last]
        late = [block_parts(name, token, stage=1) for name in names]
        return numbered([patches] * self.depth) + late

    def _blocks(
        self, x: Float[Array, "b n d"], cls_token: Float[Array, "b 1 d"], train: bool
    ) -> Float[Array, "b m d"]:
        shared: dict[str, Any] = dict(
            num_heads=self.num_heads,
            head_dim=self.embed_dim // self.num_heads,
            qkv_bias=self.qkv_bias,
            init_values=self.init_values,
            act_layer=self.act_layer,
            norm_eps=self.norm_eps,
            **self.dtypes,
        )
        patches = dict(
            **shared,
            mlp_hidden=int(self.embed_dim * self.mlp_ratio),
            proj_drop_rate=self.proj_drop_rate,
            attn_drop_rate=self.attn_drop_rate,
            attn_layer=TalkingHeadsAttention,
        )
        rates = functional.drop_path_rates(
            self.drop_path_rate, self.depth, decay="constant"
        )
        x = PatchDropout(self.patch_drop_rate, prefix=0)(x, train)
        blocks = [partial(Block, **patches)] * self.depth
        x, carry = run_stack(blocks, x, rates, train, self.plan)
        hidden = int(self.embed_dim * self.mlp_ratio_token_only)
        late = [partial(ClassAttentionBlock, mlp_hidden=hidden, **shared)]
        cls_token, _ = run_stack(
            late * self.depth_token_only,
            cls_token,
            (0.0,) * self.depth_token_only,
            train,
            Plan(hooks=self.hooks),
            name="blocks_token_only",
            offset=self.depth,
            shared={"patches": x},
            carry=carry,
        )
        return jnp.concatenate([cls_token, x], axis=1)


SIZES = {
    "xxs": {"embed_dim": 192, "num_heads": 4},
    "xs": {"embed_dim": 288, "num_heads": 6},
    "s": {"embed_dim": 384, "num_heads": 8},
    "m": {"embed_dim": 768, "num_heads": 16},
}
# Parameters (timm 1.0.31), initial LayerScale, published ImageNet-1k top-1 of the
# distilled models (arXiv:2103.17239, table 5).
CAIT = {
    "cait_xxs24_224": (11_956_264, 1e-5, 78.4),
    "cait_xxs24_384": (12_029_224, 1e-5, 80.9),
    "cait_xxs36_224": (17_299_720, 1e-5, 79.7),
    "cait_xxs36_384": (17_372_680, 1e-5, 82.2),
    "cait_xs24_384": (26_670_088, 1e-5, 84.1),
    "cait_s24_224": (46_916_200, 1e-5, 83.5),
    "cait_s24_384": (47_062_120, 1e-5, 85.1),
    "cait_s36_384": (68_366_632, 1e-6, 85.4),
    "cait_m36_384": (271_221_352, 1e-6, 86.1),
    "cait_m48_448": (356_460_520, 1e-6, 86.5),
}

for _name, (_parameters, _init_values, _top1) in CAIT.items():
    _, _size, _resolution = _name.split("_")
    _depth = _size.lstrip("xsm")
    register(
        _name,
        Entry(
            family=CaiT,
            defaults={
                **SIZES[_size.removesuffix(_depth)],
                "depth": int(_depth),
                "img_size": int(_resolution),
                "init_values": _init_values,
            },
            preprocessing=Preprocessing(*IMAGENET, 1.0),
            parameters=_parameters,
            parameters_classes=1000,
            source="timm 1.0.31",
            dialect="timm",
            golden="models_full/timm_cait_xxs24_224"
            if _name == "cait_xxs24_224"
            else "models_small/small_cait",
            top1=_top1,
        ),
    )
