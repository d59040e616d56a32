"""ConViT: local blocks initialised as convolutions, then plain attention blocks."""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import checks, pruned, regularisers
from vit_jax_tricks.models.block import Block
from vit_jax_tricks.models.blocks import BlockParts, numbered
from vit_jax_tricks.models.feature_maps import Level, block_levels
from vit_jax_tricks.models.late_class_token import LateClassToken
from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.gated_attention import GatedPositionalAttention
from vit_jax_tricks.models.registry import IMAGENET, Entry, Preprocessing, register
from vit_jax_tricks.models.stack import run_stack
from vit_jax_tricks.typing import Array, Float


class ConViT(LateClassToken):
    """Patches -> gated positional blocks -> class token joins -> blocks -> linear.

    The first `local_up_to_layer` of `depth` blocks use `GatedPositionalAttention` and
    see only the patches; the class token joins after them. Returns the same as
    `LateClassToken`.

    Field names and meanings are those of timm's `ConVit`: `embed_dim` is the width of
    one head, d = embed_dim * num_heads. `qk_scale`, from the official code, replaces
    embed_dim ** -0.5. `scan` stacks the local blocks; the others keep their numbers,
    `blocks_10`, ... . `init_values` adds LayerScale. `block_heads` and `block_hidden`
    are as in `VisionTransformer`.

    Source: d'Ascoli et al., 2021, arXiv:2103.10697; facebookresearch/convit.
    """

    embed_dim: int = 48
    block_heads: tuple[int, ...] | None = None
    block_hidden: tuple[int, ...] | None = None
    qkv_bias: bool = False
    qk_scale: float | None = None
    local_up_to_layer: int = 10
    locality_strength: float = 1.0
    init_values: float | None = None

    key_names = "vit_jax_tricks.pretrained.convit_rules:CONVIT"
    refuses = regularisers.PAIRS

    @property
    def width(self) -> int:
        """Channels of each token."""
        return self.embed_dim * self.num_heads

    @property
    def feature_info(self) -> tuple[Level, ...]:
        """The feature maps: the output of each block."""
        levels = block_levels(self.depth, self.width, self.patch_size)
        first = self.local_up_to_layer
        return levels[:first] + tuple(
            dataclasses.replace(level, prefix=1) for level in levels[first:]
        )

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        super().check()
        checks.check_least(self, {"local_up_to_layer": 0})
        if self.local_up_to_layer >= self.depth:
            raise UserError(
                f"local_up_to_layer={self.local_up_to_layer} leaves no block for the "
                f"class token; use less than depth={self.depth}."
            )
        pruned.check(self, self.depth, self.local_up_to_layer)
        if self.locality_strength <= 0:
            raise UserError(
                f"locality_strength={self.locality_strength} must be over 0, such as 1."
            )

    def blocks(self) -> list[BlockParts]:
        """All blocks, with their heads and hidden units."""
        hidden = int(self.width * self.mlp_ratio)
        one = {"num_heads": self.num_heads, "mlp_hidden": hidden}
        return numbered(pruned.layers(self, [one] * self.depth))

    def unprunable(self) -> dict[str, str]:
        """No kind: heads and hidden units can be removed."""
        return {}

    def _blocks(
        self, x: Float[Array, "b n d"], cls_token: Float[Array, "b 1 d"], train: bool
    ) -> Float[Array, "b m d"]:
        plain: dict[str, Any] = dict(
            num_heads=self.num_heads,
            head_dim=self.embed_dim,
            mlp_hidden=int(self.width * self.mlp_ratio),
            qkv_bias=self.qkv_bias,
            qk_scale=self.qk_scale,
            init_values=self.init_values,
            proj_drop_rate=self.proj_drop_rate,
            attn_drop_rate=self.attn_drop_rate,
            act_layer=self.act_layer,
            norm_eps=self.norm_eps,
            **self.dtypes,
        )
        gated = partial(
            GatedPositionalAttention,
            grid=self.grid,
            locality_strength=self.locality_strength,
            scale=self.qk_scale,
        )
        rates = functional.drop_path_rates(self.drop_path_rate, self.depth)
        first = self.local_up_to_layer
        local = [{**plain, "attn_layer": gated}] * first
        layers = pruned.layers(self, local + [plain] * (self.depth - first))
        blocks = [partial(Block, **fields) for fields in layers]
        x, carry = run_stack(blocks[:first], x, rates[:first], train, self.plan)
        x = jnp.concatenate([cls_token, x], axis=1)
        late, own = blocks[first:], rates[first:]
        at: dict[str, Any] = {"start": first, "offset": first, "carry": carry}
        return run_stack(late, x, own, train, self.plan, **at)[0]


# Heads, parameters, published ImageNet-1k top-1 (arXiv:2103.10697, table 1).
CONVIT = {
    "convit_tiny": (4, 5_710_512, 73.1),
    "convit_small": (9, 27_777_322, 81.3),
    "convit_base": (16, 86_540_040, 82.4),
}
_FULL = {
    "convit_tiny": "official_convit_tiny",
    "convit_small": "official_convit_small",
    "convit_base": "timm_convit_base",
}

for _name, (_heads, _parameters, _top1) in CONVIT.items():
    register(
        _name,
        Entry(
            family=ConViT,
            defaults={"num_heads": _heads},
            preprocessing=Preprocessing(*IMAGENET, 0.875),
            parameters=_parameters,
            parameters_classes=1000,
            source="facebookresearch/convit 0a9340a",
            dialect="timm",
            golden=f"models_full/{_FULL[_name]}",
            top1=_top1,
        ),
    )
