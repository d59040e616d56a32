"""VOLO: outlook attention on a fine map, transformer blocks on a coarse one."""

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.augment.mix_token import mix_tokens, random_box
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import regularisers
from vit_jax_tricks.models.base import PatchModel
from vit_jax_tricks.models.block import Block
from vit_jax_tricks.models.blocks import BlockParts, block_parts, numbered
from vit_jax_tricks.models.checks import check_images
from vit_jax_tricks.models.feature_maps import Level, keep
from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.conv_stem import ConvStem
from vit_jax_tricks.models.layers.head import Classifier
from vit_jax_tricks.models.layers.norm import LayerNorm
from vit_jax_tricks.models.registry import IMAGENET, Entry, Preprocessing, register
from vit_jax_tricks.models.stack import Plan, run_stack
from vit_jax_tricks.models.stage import Stage
from vit_jax_tricks.models.token_head import TokenHead
from vit_jax_tricks.models.volo_block import EPS, ClassBlock, Downsample, Outlooker
from vit_jax_tricks.models.volo_checks import check_volo
from vit_jax_tricks.param_names import GENERAL
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float, Int, Num


class VOLO(PatchModel):
    """Stem -> stages -> class blocks -> norm -> class head and token head.

    Returns `(logits, aux)`; `aux` holds `tokens` [b, n, d] after the last norm, class
    token first, and `features` [b, d], the input of the class head. With `use_aux_head`
    a second head classifies every token but the first: `aux` adds `logits_cls` [b, k]
    of the class head and `logits_aux` [b, n - 1, k]; the logits are logits_cls + max
    over tokens of logits_aux / 2. With `num_classes=0` the logits are the features,
    without a second head.

    With `use_mix_token`, in training a box of the stem's map comes from the reversed
    batch (see `augment.mix_token`), and the logits are `logits_cls`. `logits_aux` are
    moved back into place, and `aux` adds `mix_box` [4], in coarse tokens, and `mix_lam`
    [], the share of each image in its own class token. `box` replaces the random box.
    The box is TokenLabeling's: timm's reaches one token further if its side is odd.

    Field names and meanings are those of timm's `VOLO`: `layers` is the number of
    blocks in each stage; `outlook_attention` marks the stages of `Outlooker`s, which
    have no drop path; `downsamples` follow a stage; `pooling_scale` is the downsampling
    before the positions are added, which is before the third part (a stage or a
    downsampling). Additions: `init_values` (LayerScale in every block), `scan` (one
    traced block for each stage), `remat`.

    Source: Yuan et al., 2021, arXiv:2106.13112.
    """

    global_pool: str = "token"
    patch_size: int = 8
    stem_hidden_dim: int = 64
    layers: tuple[int, ...] = (4, 4, 8, 2)
    embed_dims: tuple[int, ...] = (192, 384, 384, 384)
    num_heads: tuple[int, ...] = (6, 12, 12, 12)
    downsamples: tuple[bool, ...] = (True, False, False, False)
    outlook_attention: tuple[bool, ...] = (True, False, False, False)
    mlp_ratio: float | tuple[float, ...] = 3.0
    qkv_bias: bool = False
    pos_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    init_values: float | None = None
    post_layers: tuple[str, ...] | None = ("ca", "ca")
    use_aux_head: bool = True
    use_mix_token: bool = False
    pooling_scale: int = 2

    key_names = "vit_jax_tricks.pretrained.volo_rules:VOLO"
    # A stage or a downsampling is a part of the network; class blocks come last.
    roles = GENERAL.instead(
        blocks=(r"network_(\d+)/blocks_(\d+)/.*", r"post_network_(\d+)/.*"),
        between=(r"network_(\d+)/proj/.*",),
    )
    stochastic = (
        *PatchModel.stochastic,
        "pos_drop_rate",
        "attn_drop_rate",
        "use_mix_token",
    )
    depth_fields = ("layers",)
    refuses = regularisers.MAPS

    @property
    def mixes_images(self) -> bool:
        """Whether a training step mixes the images inside the model."""
        return self.use_mix_token

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the map to which positions are added."""
        h, w, _ = self.image_shape
        scale = self.pooling_scale
        return h // self.patch_size // scale, w // self.patch_size // scale

    @property
    def mlp_ratios(self) -> tuple[float, ...]:
        """Hidden width of the MLP over the block's width, for each stage."""
        ratio = self.mlp_ratio
        return ratio if isinstance(ratio, tuple) else (ratio,) * len(self.layers)

    @property
    def parts(self) -> list[int | None]:
        """Parts of the network in order: a stage's number, or None to downsample."""
        order: list[int | None] = []
        for stage, halve in zip(
            range(len(self.layers)), self.downsamples, strict=False
        ):
            order += [stage, None] if halve else [stage]
        return order

    @property
    def feature_info(self) -> tuple[Level, ...]:
        """The feature maps: the output of each stage; the norm fits part 2 and on."""
        levels, reduction = [], self.patch_size
        for part, i in enumerate(self.parts):
            if i is None:
                reduction *= 2
                continue
            width = self.embed_dims[i]
            normed = part > 1 and width == self.embed_dims[-1]
            name = f"network_{part}"
            levels.append(Level(name, width, reduction, normed=normed))
        return tuple(levels)

    @property
    def last_norm(self) -> Callable[..., nn.Module]:
        """Factory of the norm after the last block."""
        return partial(LayerNorm, EPS, **self.dtypes)

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        check_volo(self)

    @property
    def prefix_tokens(self) -> int:
        """Tokens before those of the places: the class token of the class blocks."""
        return int(self.post_layers is not None)

    def blocks(self) -> list[BlockParts]:
        """The blocks of all stages, then those of the class token."""
        found = []
        for part, stage in enumerate(self.parts):
            if stage is not None:
                layers = [self._fields(stage)] * self.layers[stage]
                found += numbered(layers, prefix=f"network_{part}/", stage=stage)
        last = [f"post_network_{i}" for i in range(len(self.post_layers or ()))]
        stage, fields = len(self.layers), self._fields(-1)
        return found + [block_parts(name, fields, stage=stage) for name in last]

    def token_head(self) -> TokenHead:
        """The second head, or the classifier at each place of the last map.

        Raises: UserError if the second head leaves places out.
        """
        halved = self.parts.count(None)
        h, w = (n // self.patch_size >> halved for n in self.image_shape[:2])
        if not (self.use_aux_head and self.num_classes):
            exact = self.global_pool == "avg" and not self.prefix_tokens
            return TokenHead.at_each_place((h, w), exact=exact)
        lost = 1 - self.prefix_tokens  # the head leaves the first token out
        later = 2 ** self.parts[2:].count(None)  # an odd side loses its last places
        if lost or any(side % later for side in self.grid):
            raise UserError(
                f"the teacher's dense head classifies {h * w - lost} tokens, which are "
                "no grid of the image; use another teacher."
            )
        return TokenHead.of_model((h, w))

    @nn.compact
    def __call__(
        self,
        images: Num[Array, "b h w c"],
        train: bool = False,
        box: Int[Array, "4"] | None = None,
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        check_images(self, images)
        stem = ConvStem(
            self.embed_dims[0],
            self.patch_size,
            self.stem_hidden_dim,
            name="patch_embed",
            **self.dtypes,
        )
        x = stem(images, train)
        mix = {}
        if not (self.use_mix_token and train):
            box = None
        elif box is None:
            box = random_box(self.make_rng("dropout"), self.grid)
        if box is not None:
            x, lam = mix_tokens(x, box * self.pooling_scale)
            mix = {"mix_box": box, "mix_lam": lam}
        x, carry = self._network(constrain(x), train)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        if self.post_layers is not None:
            x = self._class_blocks(x, train, carry)
        x = self.last_norm(name="norm")(x)
        features = x[:, 0] if self.global_pool == "token" else x.mean(1)
        head = partial(Classifier, self.num_classes, self.drop_rate, **self.dtypes)
        logits = head(name="head")(features, train)
        aux = {"tokens": x, "features": features} | mix
        if not (self.use_aux_head and self.num_classes):
            return logits, aux
        dense = head(name="aux_head")(x[:, 1:], train)
        if box is not None:
            back = dense.reshape(-1, *self.grid, self.num_classes)
            dense = mix_tokens(back, box)[0].reshape(dense.shape)
        aux |= {"logits_cls": logits, "logits_aux": dense}
        return logits if mix else logits + dense.max(1) / 2, aux

    def _network(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> tuple[Float[Array, "b i j d"], dict[str, Any]]:
        """Applies all stages and downsamplings; adds positions before the third.

        Also returns what hooks carry.
        """
        carry: dict[str, Any] = {}
        rates = functional.drop_path_rates(self.drop_path_rate, sum(self.layers))
        ends, done = list(accumulate(self.layers)), 0
        for part, i in enumerate(self.parts):
            if part == 2:
                shape = (1, *self.grid, self.embed_dims[-1])
                x = x + self.table("pos_embed", shape)
                x = nn.Dropout(self.pos_drop_rate, deterministic=not train)(x)
            name = f"network_{part}"
            if i is None:
                width = self.embed_dims[done]
                x = Downsample(width, name=name, **self.dtypes)(x)
                continue
            done, depth = i + 1, self.layers[i]
            first = ends[i] - depth
            own = tuple(rates[first : ends[i]])
            if self.outlook_attention[i]:
                own = (0.0,) * depth
            blocks = (self._block(i),) * depth
            stage = Stage(blocks, own, self.plan, offset=first, name=name)
            if self.outlook_attention[i]:
                x, carry = stage(x, train, carry)
            else:
                tokens = x.reshape(x.shape[0], -1, x.shape[-1])
                tokens, carry = stage(tokens, train, carry)
                if tokens.shape[1] != x.shape[1] * x.shape[2]:
                    raise UserError(
                        "hooks: VOLO's stages need whole maps, so no hook can drop "
                        "tokens; hide them with key_bias instead."
                    )
                x = tokens.reshape(x.shape)
            keep(stage, x)
        return x, carry

    def _block(self, stage: int) -> Callable[..., nn.Module]:
        """Factory of the blocks of a stage."""
        outlook = self.outlook_attention[stage]
        block: Any = Outlooker if outlook else Block
        fields = {} if outlook else {"norm_eps": EPS}
        return partial(block, **self._fields(stage), **fields)

    def _class_blocks(
        self, x: Float[Array, "b n d"], train: bool, carry: dict[str, Any]
    ) -> Float[Array, "b m d"]:
        """Prepends the class token and applies the blocks that change only it."""
        b, _, d = x.shape
        token = jnp.broadcast_to(self.table("cls_token", (1, 1, d)), (b, 1, d))
        x = jnp.concatenate([token, x], axis=1)
        count = len(self.post_layers or ())
        return run_stack(
            [partial(ClassBlock, **self._fields(-1))] * count,
            x,
            (0.0,) * count,
            train,
            Plan(hooks=self.hooks),
            name="post_network",
            offset=sum(self.layers),
            carry=carry,
        )[0]

    def _fields(self, stage: int) -> dict[str, Any]:
        """Fields shared by the blocks of a stage."""
        width, heads = self.embed_dims[stage], self.num_heads[stage]
        return dict(
            num_heads=heads,
            head_dim=width // heads,
            mlp_hidden=int(width * self.mlp_ratios[stage]),
            qkv_bias=self.qkv_bias,
            init_values=self.init_values,
            attn_drop_rate=self.attn_drop_rate,
            **self.dtypes,
        )


WIDE = {"embed_dims": (256, 512, 512, 512), "num_heads": (8, 16, 16, 16)}
WIDEST = {"embed_dims": (384, 768, 768, 768), "num_heads": (12, 16, 16, 16)}
SIZES: dict[str, dict[str, Any]] = {
    "d1": {},
    "d2": {"layers": (6, 4, 10, 4), **WIDE},
    "d3": {"layers": (8, 8, 16, 4), **WIDE},
    "d4": {"layers": (8, 8, 16, 4), **WIDEST},
    "d5": {
        "layers": (12, 12, 20, 4),
        **WIDEST,
        "mlp_ratio": 4.0,
        "stem_hidden_dim": 128,
    },
}
# Parameters (timm 1.0.31), evaluation crop, ImageNet-1k top-1 (sail-sg/volo).
NAMES = {
    "volo_d1_224": (26_632_040, 0.96, 84.2),
    "volo_d1_384": (26_777_960, 1.0, 85.2),
    "volo_d2_224": (58_678_336, 0.96, 85.2),
    "volo_d2_384": (58_872_896, 1.0, 86.0),
    "volo_d3_224": (86_325_072, 0.96, 85.4),
    "volo_d3_448": (86_626_128, 1.0, 86.3),
    "volo_d4_224": (192_961_520, 0.96, 85.7),
    "volo_d4_448": (193_413_104, 1.15, 86.8),
    "volo_d5_224": (295_455_584, 0.96, 86.1),
    "volo_d5_448": (295_907_168, 1.15, 87.0),
    "volo_d5_512": (296_091_488, 1.15, 87.1),
}

for _name, (_count, _crop, _top1) in NAMES.items():
    _, _size, _side = _name.split("_")
    register(
        _name,
        Entry(
            family=VOLO,
            defaults={"img_size": int(_side), **SIZES[_size]},
            preprocessing=Preprocessing(*IMAGENET, _crop),
            parameters=_count,
            parameters_classes=1000,
            source="timm 1.0.31",
            dialect="timm",
            golden=(
                "models_full/timm_volo_d1_224"
                if _name == "volo_d1_224"
                else "models_small/small_volo"
            ),
            top1=_top1,
        ),
    )
