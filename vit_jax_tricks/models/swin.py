"""Swin Transformer: shifted windows, shrinking maps and relative position biases."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import pruned, regularisers
from vit_jax_tricks.models.base import PatchModel
from vit_jax_tricks.models.blocks import BlockParts, numbered
from vit_jax_tricks.models.checks import (
    check_choices,
    check_images,
    check_least,
    check_patches,
    check_rates,
)
from vit_jax_tricks.models.feature_maps import Level, keep
from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.functional.pooling import GLOBAL_POOLS
from vit_jax_tricks.models.layers.head import Classifier
from vit_jax_tricks.models.layers.norm import LayerNorm
from vit_jax_tricks.models.registry import IMAGENET, Entry, Preprocessing, register
from vit_jax_tricks.models.stage import Stage
from vit_jax_tricks.models.swin_block import (
    PatchGrid,
    PatchMerging,
    SwinBlock,
    WindowAttention,
)
from vit_jax_tricks.models.token_head import TokenHead
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float, Num, Params


class WindowedTransformer(PatchModel):
    """Base of Swin and Swin V2: patches -> stages of blocks -> norm -> mean -> head.

    Returns `(logits, aux)`; `aux` holds `tokens` [b, n, d] after the last norm,
    row-major, and `features` [b, d], their mean or another `global_pool`. With
    `num_classes=0` the logits are the features.

    Field names and meanings are timm's: `window_size` is one number, (height, width),
    or one of either for each stage. Windows are fitted to the maps of `img_size`
    (`functional.fit_window`) unless `always_partition`; maps that are not a multiple of
    the window are padded. `dynamic_img_size`, or `strict_img_size=False`, accepts
    images of any multiple of `patch_size`, with the windows of `img_size`. From
    microsoft/Swin-Transformer: `ape` (a learned absolute position table), `patch_norm`,
    and `square_windows`, which fits both sides of a window to the shorter side of the
    map. Additions: `init_values` (LayerScale; in V2 the initial gain of the norms at
    the end of the branches, 0 by default), `pos_drop_rate`, `act_layer` and `norm_eps`
    by value, `scan` (one traced block for each stage, parameters stacked under
    `blocks`), `remat` (recomputes each block in the backward pass), and `block_heads`
    and `block_hidden` (heads and hidden units of each block by stage, after pruning).
    """

    patch_size: int = 4
    global_pool: str = "avg"
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int | tuple[int, ...] | tuple[tuple[int, int], ...] = 7
    always_partition: bool = False
    square_windows: bool = False
    strict_img_size: bool = True
    dynamic_img_size: bool = False
    mlp_ratio: float | tuple[float, ...] = 4.0
    block_heads: tuple[tuple[int, ...], ...] | None = None
    block_hidden: tuple[tuple[int, ...], ...] | None = None
    qkv_bias: bool = True
    ape: bool = False
    patch_norm: bool = True
    pos_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.1
    init_values: float | None = None
    act_layer: str = "gelu"
    norm_eps: float = 1e-5

    # Whether norms end the residual branches (V2) or start them.
    post_norm = False
    stochastic = (
        *PatchModel.stochastic,
        "pos_drop_rate",
        "proj_drop_rate",
        "attn_drop_rate",
    )
    depth_fields = ("depths",)
    refuses = regularisers.MAPS

    @property
    def activation(self) -> str:
        """The activation of the MLPs."""
        return self.act_layer

    @property
    def any_size(self) -> bool:
        """Whether images may differ from `img_size`."""
        return self.dynamic_img_size or not self.strict_img_size

    def windows(self, stage: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Window of a stage's blocks, and the shift of its shifted blocks."""
        h, w = _window_sizes(self.window_size, len(self.depths))[stage]
        if self.always_partition:
            return (h, w), (h // 2, w // 2)
        size = -(-self.grid[0] >> stage), -(-self.grid[1] >> stage)
        return functional.fit_window((h, w), size, square=self.square_windows)

    @property
    def feature_info(self) -> tuple[Level, ...]:
        """The feature maps: the output of each stage. The norm fits the last."""
        last = len(self.depths) - 1
        return tuple(
            Level(
                f"layers_{i}",
                self.embed_dim << i,
                self.patch_size << i,
                normed=i == last,
            )
            for i in range(last + 1)
        )

    @property
    def last_norm(self) -> Callable[..., nn.Module]:
        """Factory of the norm after the last block."""
        return partial(LayerNorm, self.norm_eps, **self.dtypes)

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        check_least(self, {"patch_size": 1, "in_chans": 1, "embed_dim": 1})
        check_rates(self)
        check_patches(self)
        choices = {
            "act_layer": tuple(functional.ACTIVATIONS),
            "global_pool": tuple(GLOBAL_POOLS),
        }
        check_choices(self, choices)
        stages = len(self.depths)
        if not stages or min(self.depths) < 1:
            raise UserError(f"depths={self.depths} needs 1 or more blocks a stage.")
        _check_each("num_heads", self.num_heads, stages)
        _check_each("mlp_ratio", self.mlp_ratio, stages)
        sizes = _window_sizes(self.window_size, stages)
        _check_each("window_size", sizes, stages)
        if min(map(min, sizes)) < 1 or min(self.num_heads) < 1:
            raise UserError("window_size and num_heads must be 1 or more.")
        pruned.check(self, self.depths)
        if self.always_partition and self.square_windows:
            raise UserError("square_windows has no effect with always_partition=True.")
        if self.ape and self.any_size:
            raise UserError("ape=True allows only one image size, that of its table.")

    @property
    def size_option(self) -> str:
        """The field that lets one model take images of any size, as it is typed."""
        return "dynamic_img_size=True"

    def sizes(self, stage: int) -> Sequence[Mapping[str, int]]:
        """Heads and hidden units of the blocks of a stage."""
        ratio = self.mlp_ratio
        ratio = ratio[stage] if isinstance(ratio, tuple) else ratio
        hidden = int((self.embed_dim << stage) * ratio)
        one = {"num_heads": self.num_heads[stage], "mlp_hidden": hidden}
        return pruned.layers(self, [one] * self.depths[stage], stage)

    def blocks(self) -> list[BlockParts]:
        """The blocks of all stages, with their heads and hidden units."""
        return [
            block
            for stage in range(len(self.depths))
            for block in numbered(
                self.sizes(stage), prefix=f"layers_{stage}/", stage=stage
            )
        ]

    def unprunable(self) -> dict[str, str]:
        """No kind: heads and hidden units can be removed."""
        return {}

    def with_units(self, units: Mapping[str, Mapping[str, int]]) -> Any:
        """The model with other numbers of heads or hidden units."""
        return pruned.with_units(self, units, nested=True)

    def token_head(self) -> TokenHead:
        """The classifier at each place of the last map."""
        halved = len(self.depths) - 1
        h, w = (-(-side >> halved) for side in self.grid)
        return TokenHead.at_each_place((h, w), exact=self.global_pool == "avg")

    def place_logits(
        self, params: Params, places: Float[Array, "b n d"]
    ) -> Float[Array, "b n k"]:
        """The logits of each place, pooled alone."""
        maps = places.reshape(-1, 1, 1, places.shape[-1])
        pooled = GLOBAL_POOLS[self.global_pool](maps)
        return super().place_logits(params, pooled.reshape(*places.shape[:2], -1))

    def attention(self, stage: int) -> Callable[..., nn.Module]:
        """Factory of the attention layer of a stage's blocks."""
        raise NotImplementedError

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w c"], train: bool = False
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        self._check_images(images)
        patch_eps = self.norm_eps if self.patch_norm else None
        x = PatchGrid(
            self.embed_dim,
            self.patch_size,
            patch_eps,
            name="patch_embed",
            **self.dtypes,
        )(images)
        if self.ape:
            shape = (1, self.grid[0] * self.grid[1], self.embed_dim)
            table = self.table("absolute_pos_embed", shape)
            x = x + table.reshape(1, *x.shape[1:])
        x = constrain(nn.Dropout(self.pos_drop_rate, deterministic=not train)(x))
        rates = functional.drop_path_rates(self.drop_path_rate, sum(self.depths))
        ends = accumulate(self.depths, initial=0)
        carry: dict[str, Any] = {}
        for stage, (start, end) in enumerate(pairwise(ends)):
            shifted = jnp.arange(end - start) % 2 == 1 if self.scan else None
            layer = self._stage(stage, rates[start:end], start)
            x, carry = layer(x, train, carry, shifted=shifted)
            keep(layer, x)
        x = self.last_norm(name="norm")(x)
        features = GLOBAL_POOLS[self.global_pool](x)
        head = Classifier(self.num_classes, self.drop_rate, name="head", **self.dtypes)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        return head(features, train), {"tokens": tokens, "features": features}

    def _check_images(self, images: Array) -> None:
        if not self.any_size:
            check_images(self, images)
            return
        h, w, _ = images.shape[1:]
        other = self.clone(img_size=(h, w))
        check_patches(other)
        check_images(other, images)

    def _stage(self, stage: int, rates: list[float], offset: int) -> Stage:
        """A stage; blocks 1, 3, ... are shifted, by an input if they are scanned."""
        width = self.embed_dim << stage
        window, shift = self.windows(stage)
        block = partial(
            SwinBlock,
            window=window,
            shift=shift,
            post_norm=self.post_norm,
            init_values=self.init_values,
            proj_drop_rate=self.proj_drop_rate,
            act_layer=self.act_layer,
            norm_eps=self.norm_eps,
            **self.dtypes,
        )
        attention = self.attention(stage)
        merging = partial(
            PatchMerging, width, self.norm_eps, self.post_norm, **self.dtypes
        )
        blocks = [
            partial(
                block,
                attention=partial(attention, num_heads=layer["num_heads"]),
                mlp_hidden=layer["mlp_hidden"],
                shifted=i % 2 == 1,
            )
            for i, layer in enumerate(self.sizes(stage))
        ]
        return Stage(
            (blocks[0],) * len(blocks) if self.scan else tuple(blocks),
            tuple(rates),
            self.plan,
            offset=offset,
            downsample=merging if stage else None,
            name=f"layers_{stage}",
        )


class SwinTransformer(WindowedTransformer):
    """Swin: pre-norm blocks with a table of relative position biases.

    `head_dim` (timm) replaces width / num_heads, and `qk_scale` (microsoft) the scale h
    ** -0.5. Equivalent to timm's `SwinTransformer` and, with `square_windows`, to that
    of microsoft/Swin-Transformer.

    Source: Liu et al., 2021, arXiv:2103.14030.
    """

    head_dim: int | tuple[int, ...] | None = None
    qk_scale: float | None = None

    key_names = "vit_jax_tricks.pretrained.swin_rules:SWIN"

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        super().check()
        stages = len(self.depths)
        if self.head_dim is None:
            check_stage_heads(self)
        else:
            _check_each("head_dim", self.head_dim, stages)

    def attention(self, stage: int) -> Callable[..., nn.Module]:
        """Factory of the attention layer of a stage's blocks."""
        heads, dim = self.num_heads[stage], self.head_dim
        dim = dim[stage] if isinstance(dim, tuple) else dim
        return partial(
            WindowAttention,
            num_heads=heads,
            head_dim=dim or (self.embed_dim << stage) // heads,
            window=self.windows(stage)[0],
            qkv_bias=self.qkv_bias,
            scale=self.qk_scale,
            attn_drop=self.attn_drop_rate,
            proj_drop=self.proj_drop_rate,
            **self.dtypes,
        )


def check_stage_heads(model: WindowedTransformer) -> None:
    """Raises UserError unless the heads divide the width of every stage."""
    for stage, heads in enumerate(model.num_heads):
        width = model.embed_dim << stage
        if width % heads:
            raise UserError(
                f"num_heads={heads} of stage {stage} does not divide its width "
                f"{width} (embed_dim={model.embed_dim}); change either."
            )


def _check_each(field: str, value: Any, stages: int) -> None:
    if isinstance(value, tuple | list) and len(value) != stages:
        raise UserError(
            f"{field}={value} has {len(value)} entries for {stages} stages; give one "
            "for each stage."
        )


def _window_sizes(value: Any, stages: int) -> list[tuple[int, int]]:
    """(height, width) for each stage; two plain numbers are one window for all."""
    if isinstance(value, int):
        value = (value, value)
    if len(value) == 2 and all(isinstance(v, int) for v in value):
        value = (value,) * stages
    return [(v, v) if isinstance(v, int) else v for v in value]


SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "large": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}

# Counts: timm 1.0.31. Top-1: the README of microsoft/Swin-Transformer, for the weights
# trained on ImageNet-1k only if they exist, otherwise pre-trained on ImageNet-22k.
SWIN = {
    "swin_tiny_patch4_window7_224": (28_288_354, 81.2),
    "swin_small_patch4_window7_224": (49_606_258, 83.2),
    "swin_base_patch4_window7_224": (87_768_224, 83.5),
    "swin_base_patch4_window12_384": (87_903_584, 84.5),
    "swin_large_patch4_window7_224": (196_532_476, 86.3),
    "swin_large_patch4_window12_384": (196_735_516, 87.3),
}
# Windows found by architecture search: Chen et al., 2021, arXiv:2111.14725.
SWIN_S3 = {
    "swin_s3_tiny_224": (28_328_674, SIZES["tiny"], (7, 7, 14, 7)),
    "swin_s3_small_224": (49_737_298, SIZES["small"], (14, 14, 14, 7)),
    "swin_s3_base_224": (
        71_125_762,
        SIZES["small"] | {"depths": (2, 2, 30, 2)},
        (7, 7, 14, 7),
    ),
}
_FULL = {
    "swin_tiny_patch4_window7_224",
    "swin_base_patch4_window7_224",
    "swin_base_patch4_window12_384",
}


def register_swin(
    name: str,
    family: type[WindowedTransformer],
    parameters: int,
    golden: str,
    fields: dict[str, Any],
    *,
    classes: int = 1000,
    top1: float | None = None,
) -> None:
    """Registers a model name that ends in its image size."""
    img_size = int(name.split("_")[-1].split("to")[-1])
    entry = Entry(
        family=family,
        defaults=fields | {"img_size": img_size},
        preprocessing=Preprocessing(*IMAGENET, 1.0 if img_size == 384 else 0.9),
        parameters=parameters,
        parameters_classes=classes,
        source="timm 1.0.31",
        dialect="timm",
        golden=f"models_full/timm_{name}" if name in _FULL else golden,
        top1=top1,
    )
    register(name, entry)


def window_of(name: str) -> int:
    """The window size in a model name, that of fine-tuning if it has two."""
    part = next(p for p in name.split("_") if p.startswith("window"))
    return int(part.removeprefix("window").split("to")[-1])


for _name, (_count, _top1) in SWIN.items():
    _fields = SIZES[_name.split("_")[1]] | {"window_size": window_of(_name)}
    _golden = "models_full/official_swin_small_patch4_window7_224"
    _golden = _golden if "_small_" in _name else "models_small/small_swin"
    register_swin(_name, SwinTransformer, _count, _golden, _fields, top1=_top1)
for _name, (_count, _size, _windows) in SWIN_S3.items():
    _fields = _size | {"window_size": _windows}
    register_swin(_name, SwinTransformer, _count, "models_small/small_swin", _fields)
