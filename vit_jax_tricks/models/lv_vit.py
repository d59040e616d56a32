"""LV-ViT: a convolutional stem, scaled residuals, and class logits for every token."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.augment.mix_token import mix_tokens, random_box
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import checks, pruned
from vit_jax_tricks.models.base import PatchModel
from vit_jax_tricks.models.block import Block
from vit_jax_tricks.models.blocks import BlockParts, numbered
from vit_jax_tricks.models.feature_maps import Level, block_levels
from vit_jax_tricks.models.layers import functional, gates
from vit_jax_tricks.models.layers.conv_stem import ConvStem
from vit_jax_tricks.models.layers.drop import PatchDropout
from vit_jax_tricks.models.layers.head import Classifier
from vit_jax_tricks.models.layers.norm import LayerNorm
from vit_jax_tricks.models.layers.patch_embed import PatchEmbed
from vit_jax_tricks.models.registry import IMAGENET, Entry, Preprocessing, register
from vit_jax_tricks.models.stack import run_stack
from vit_jax_tricks.models.token_head import TokenHead
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float, Int, Num


EPS = 1e-5  # epsilon of every layer norm
STEMS = {"4_2": 64, "4_2_128": 128}  # channels of the convolutions


class LVViT(PatchModel):
    """Stem -> class token, positions -> blocks -> norm -> class head and dense head.

    Returns `(logits, aux)`; `aux` holds `tokens` [b, n, d] after the last norm, class
    token first, and `features` [b, d], the input of the class head. With `return_dense`
    a second head classifies every patch token: `aux` adds `logits_cls` [b, k] of the
    class head and `logits_aux` [b, n - 1, k]; the logits are `logits_cls` in training,
    and logits_cls + max over tokens of logits_aux / 2 in evaluation. With
    `num_classes=0` the logits are the features, without a dense head.

    With `mix_token`, in training a box of the stem's map comes from the reversed batch
    (see `augment.mix_token`). `logits_aux` are moved back into place, so that each
    token's logits belong to its own image, and `aux` adds `mix_box` [4] and `mix_lam`
    [], the share of each image in its own class token. `box` replaces the random box.

    Field names and meanings are those of `LV_ViT` in TokenLabeling: `p_emb` ("4_2",
    "4_2_128", or 1 for plain patches), `skip_lam` (divides every branch), `order` (a
    kind for each block: "tr", "mha" or "ffn", instead of `depth`), `drop_path_decay`
    ("linear" or "fix"). Additions: `patch_drop_rate` (not with `return_dense`: a
    dropped token has no logits), `init_values`, `scan`, `remat`, and `block_heads` and
    `block_hidden` as in `VisionTransformer`.

    Source: Jiang et al., 2021, arXiv:2104.10858.
    """

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    block_heads: tuple[int, ...] | None = None
    block_hidden: tuple[int, ...] | None = None
    qkv_bias: bool = False
    qk_scale: float | None = None
    attn_drop_rate: float = 0.0
    drop_path_decay: str = "linear"
    patch_drop_rate: float = 0.0
    init_values: float | None = None
    p_emb: str | int = "4_2"
    head_dim: int | None = None
    skip_lam: float = 1.0
    order: tuple[str, ...] | None = None
    mix_token: bool = False
    return_dense: bool = False

    key_names = "vit_jax_tricks.pretrained.lv_vit_rules:LV_VIT"
    stochastic = (
        *PatchModel.stochastic,
        "attn_drop_rate",
        "patch_drop_rate",
        "mix_token",
    )
    depth_fields = ("order", "depth")

    @property
    def mixes_images(self) -> bool:
        """Whether a training step mixes the images inside the model."""
        return self.mix_token

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each block."""
        return ("tr",) * self.depth if self.order is None else self.order

    @property
    def feature_info(self) -> tuple[Level, ...]:
        """The feature maps: the output of each block."""
        return block_levels(len(self.kinds), self.embed_dim, self.patch_size, 1)

    @property
    def last_norm(self) -> Callable[..., nn.Module]:
        """Factory of the norm after the last block."""
        return partial(LayerNorm, EPS, **self.dtypes)

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        least = ("patch_size", "in_chans", "embed_dim", "num_heads")
        checks.check_least(self, {**dict.fromkeys(least, 1), "depth": 0})
        checks.check_rates(self)
        checks.check_patches(self)
        checks.check_choices(self, {"drop_path_decay": ("linear", "fix")})
        if self.head_dim is None:
            checks.check_heads(self)
        checks.check_hidden(self, self.embed_dim)
        if self.p_emb not in (*STEMS, 1):
            raise UserError(
                f"p_emb={self.p_emb!r} is unknown; use one of {', '.join(STEMS)}, or 1 "
                "for plain patches."
            )
        if self.p_emb in STEMS and self.patch_size % 2:
            raise UserError(
                f'p_emb="{self.p_emb}" halves the map, so patch_size={self.patch_size} '
                "must be even."
            )
        if not self.skip_lam > 0:
            raise UserError(f"skip_lam={self.skip_lam} must be positive.")
        unknown = set(self.kinds) - {"tr", "mha", "ffn"}
        if unknown:
            raise UserError(
                f"order has {sorted(unknown)[0]!r}; its entries are tr, mha or ffn."
            )
        pruned.check(self, len(self.kinds))
        if self.patch_drop_rate and self.return_dense:
            raise UserError(
                f"patch_drop_rate={self.patch_drop_rate} needs return_dense=False: a "
                "dropped patch cannot learn its label."
            )
        if self.mix_token and not self.return_dense:
            raise UserError(
                "mix_token=True needs return_dense=True: without the dense head the "
                "pasted tokens have no labels."
            )

    @property
    def prefix_tokens(self) -> int:
        """Tokens before those of the places: the class token."""
        return 1

    @property
    def position_prefix(self) -> int:
        """Rows of the position table that belong to prefix tokens."""
        return 1

    def blocks(self) -> list[BlockParts]:
        """All blocks; an "mha" has no hidden units, and an "ffn" no heads."""
        hidden = int(self.embed_dim * self.mlp_ratio)
        one = {"num_heads": self.num_heads, "mlp_hidden": hidden}
        layers = pruned.layers(self, [one] * len(self.kinds))
        lacks = {"mha": {"mlp_hidden": 0}, "ffn": {"num_heads": 0}, "tr": {}}
        pairs = zip(layers, self.kinds, strict=True)
        return numbered({**layer, **lacks[kind]} for layer, kind in pairs)

    @property
    def class_token_in_every_block(self) -> bool:
        """Whether the first token of every block is a class token."""
        return True

    def unprunable(self) -> dict[str, str]:
        """No kind: heads and hidden units can be removed."""
        return {}

    @property
    def width(self) -> int:
        """Channels of each token."""
        return self.embed_dim

    def fixed_width(self) -> None:
        """No reason: positions and stem are learned at any width."""

    def with_width(self, width: int) -> Any:
        """The model of another width, with the same heads and hidden units."""
        heads = self.head_dim or self.embed_dim // self.num_heads
        return pruned.with_width(self, width, heads)

    def token_head(self) -> TokenHead:
        """The dense head, or the classifier of the class token at each place."""
        if self.return_dense and self.num_classes:
            return TokenHead.of_model(self.grid)
        return TokenHead.at_each_place(self.grid, exact=False)

    @nn.compact
    def __call__(
        self,
        images: Num[Array, "b h w c"],
        train: bool = False,
        box: Int[Array, "4"] | None = None,
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        checks.check_images(self, images)
        maps = self._stem(images, train)
        mix = {}
        if not (self.mix_token and train):
            box = None
        elif box is None:
            box = random_box(self.make_rng("dropout"), self.grid)
        if box is not None:
            maps, lam = mix_tokens(maps, box)
            mix = {"mix_box": box, "mix_lam": lam}
        x = self._blocks(self._embed(maps, train), train)
        width = gates.find(self, "width", x.shape[-1])
        x = self.last_norm(name="norm")(x, width)
        features = x[:, 0]
        aux = {"tokens": x, "features": features} | mix
        logits = Classifier(self.num_classes, name="head", **self.dtypes)(
            features, train
        )
        if not (self.return_dense and self.num_classes):
            return logits, aux
        dense = nn.Dense(
            self.num_classes,
            kernel_init=nn.initializers.normal(0.02),
            name="aux_head",
            **self.dtypes,
        )(x[:, 1:]).astype(logits.dtype)
        if box is not None:
            back = dense.reshape(-1, *self.grid, self.num_classes)
            dense = mix_tokens(back, box)[0].reshape(dense.shape)
        aux |= {"logits_cls": logits, "logits_aux": dense}
        if not train:
            logits = logits + dense.max(1) / 2
        return logits, aux

    def _stem(
        self, images: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b i j d"]:
        """Embeds images as a map of patch tokens."""
        sizes = (self.embed_dim, self.patch_size)
        if self.p_emb == 1:
            x = PatchEmbed(*sizes, name="patch_embed", **self.dtypes)(images, train)
            return x.reshape(-1, *self.grid, self.embed_dim)
        width = STEMS[str(self.p_emb)]
        return ConvStem(*sizes, width, name="patch_embed", **self.dtypes)(images, train)

    def _embed(
        self, maps: Float[Array, "b i j d"], train: bool
    ) -> Float[Array, "b n d"]:
        """Prepends the class token to the patch tokens and adds positions."""
        b, *_, d = maps.shape
        patches = maps.reshape(b, -1, d)
        token = jnp.broadcast_to(self.table("cls_token", (1, 1, d)), (b, 1, d))
        x = jnp.concatenate([token, patches], axis=1)
        x = x + self.table("pos_embed", (1, 1 + patches.shape[1], d))
        x = functional.gated(x, gates.find(self, "width", d))
        x = nn.Dropout(self.drop_rate, deterministic=not train)(x)
        return constrain(PatchDropout(self.patch_drop_rate)(x, train))

    def _blocks(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b m d"]:
        """Applies all transformer blocks."""
        fields = dict(
            num_heads=self.num_heads,
            head_dim=self.head_dim or self.embed_dim // self.num_heads,
            mlp_hidden=int(self.embed_dim * self.mlp_ratio),
            qkv_bias=self.qkv_bias,
            init_values=self.init_values,
            proj_drop_rate=self.drop_rate,
            attn_drop_rate=self.attn_drop_rate,
            norm_eps=EPS,
            qk_scale=self.qk_scale,
            skip_lam=self.skip_lam,
            **self.dtypes,
        )
        layers = [{**fields, "kind": kind} for kind in self.kinds]
        layers = pruned.layers(self, layers)
        decay = "constant" if self.drop_path_decay == "fix" else "linear"
        rates = functional.drop_path_rates(
            self.drop_path_rate, len(layers), decay=decay
        )
        blocks = [partial(Block, **own) for own in layers]
        return run_stack(blocks, x, rates, train, self.plan)[0]


DENSE = {"return_dense": True, "mix_token": True}
# Width, depth, heads, skip_lam; crop, parameters and official top-1 at 224 pixels.
VARIANTS: dict[str, tuple[tuple[int, int, int, float], float, int, float | None]] = {
    "lvvit": ((384, 16, 6, 2.0), 0.9, 25_766_824, None),
    "lvvit_t": ((240, 12, 4, 1.0), 0.9, 8_534_720, 79.1),
    "lvvit_s": ((384, 16, 6, 2.0), 0.9, 26_151_824, 83.3),
    "lvvit_m": ((512, 20, 8, 2.0), 1.0, 55_830_544, 84.0),
    "lvvit_l": ((768, 24, 12, 3.0), 1.0, 150_021_968, None),
}
# Models with a reference file of their own size.
_FULL = {"lvvit_t", "lvvit_s"}


def _register() -> None:
    for name, ((width, depth, heads, lam), crop, count, top1) in VARIANTS.items():
        fields: dict[str, Any] = {
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": 3.0,
            "p_emb": "4_2_128" if name == "lvvit_l" else "4_2",
            "skip_lam": lam,
        }
        full = f"models_full/official_{name}"
        entry = Entry(
            family=LVViT,
            defaults=fields if name == "lvvit" else fields | DENSE,
            preprocessing=Preprocessing(*IMAGENET, crop_pct=crop),
            parameters=count,
            parameters_classes=1000,
            source="zihangJiang/TokenLabeling 9dbfd59",
            dialect="tlt",
            golden=full if name in _FULL else "models_small/small_lvvit",
            top1=top1,
        )
        register(name, entry)


_register()
