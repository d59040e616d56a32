"""T2T-ViT: overlapping soft splits before a deep and narrow transformer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import checks, pruned
from vit_jax_tricks.models.base import ImageModel
from vit_jax_tricks.models.block import Block
from vit_jax_tricks.models.blocks import BlockParts, numbered
from vit_jax_tricks.models.feature_maps import Level, block_levels
from vit_jax_tricks.models.layers import functional, gates
from vit_jax_tricks.models.layers.drop import PatchDropout
from vit_jax_tricks.models.layers.functional.position_sincos import sinusoid_positions
from vit_jax_tricks.models.layers.functional.resample import resize_table
from vit_jax_tricks.models.layers.head import Classifier
from vit_jax_tricks.models.layers.norm import LayerNorm
from vit_jax_tricks.models.layers.tokens_to_token import EPS, TokensToToken
from vit_jax_tricks.models.registry import IMAGENET, Entry, Preprocessing, register
from vit_jax_tricks.models.stack import run_stack
from vit_jax_tricks.param_names import GENERAL
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float, Num


STRIDE = 16  # total stride of the three soft splits


class T2TViT(ImageModel):
    """Tokens-to-token stem -> class token, sinusoids -> pre-norm blocks -> linear.

    Returns `(logits, aux)`; `aux` holds `tokens` [b, n, d] after the last norm, class
    token first, and `features` [b, d], the classifier's input. With `num_classes=0` the
    logits are the features.

    Field names and meanings are those of `T2T_ViT` in yitu-opensource/T2T-ViT:
    `tokens_type` ("performer", "transformer" or "convolution") and `token_dim` of the
    stem, `qk_scale` of the blocks (None: h ** -0.5), `drop_rate` after the positions
    and in the blocks. Additions: `pos_img_size`, the image size whose sinusoids are
    resampled (bicubic) to this model's size, as the reference does with weights of
    another size (None: computed for this size); `patch_drop_rate`, `init_values`,
    `scan`, `remat`, `block_heads` and `block_hidden` as in `VisionTransformer`.

    Source: Yuan et al., 2021, arXiv:2101.11986.
    """

    tokens_type: str = "performer"
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    block_heads: tuple[int, ...] | None = None
    block_hidden: tuple[int, ...] | None = None
    qkv_bias: bool = False
    qk_scale: float | None = None
    attn_drop_rate: float = 0.0
    patch_drop_rate: float = 0.0
    init_values: float | None = None
    token_dim: int = 64
    pos_img_size: int | None = None

    key_names = "vit_jax_tricks.pretrained.t2t_vit_rules:T2T_VIT"
    roles = GENERAL.also(in_float=("tokens_to_token",))
    stochastic = (*ImageModel.stochastic, "attn_drop_rate", "patch_drop_rate")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        h, w, _ = self.image_shape
        return h // STRIDE, w // STRIDE

    @property
    def sinusoids(self) -> Float[np.ndarray, "1 m d"]:
        """Position table of `pos_img_size`, or of this size if None.

        The class token comes first.
        """
        h, w = self.grid
        n = h * w if self.pos_img_size is None else (self.pos_img_size // STRIDE) ** 2
        return sinusoid_positions(1 + n, self.embed_dim)

    @property
    def positions(self) -> Float[np.ndarray, "1 n d"]:
        """The sinusoids, resampled if they are those of another size."""
        table = self.sinusoids
        if self.pos_img_size is None:
            return table
        side = self.pos_img_size // STRIDE
        body = resize_table(table[0, 1:].reshape(side, side, -1), self.grid)
        body = body.reshape(1, -1, self.embed_dim)
        return np.concatenate([table[:, :1], body], axis=1)

    @property
    def feature_info(self) -> tuple[Level, ...]:
        """The feature maps: the output of each block."""
        return block_levels(self.depth, self.embed_dim, STRIDE, 1)

    @property
    def last_norm(self) -> Callable[..., nn.Module]:
        """Factory of the norm after the last block."""
        return partial(LayerNorm, EPS, **self.dtypes)

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        least = ("in_chans", "embed_dim", "num_heads")
        checks.check_least(
            self, {**dict.fromkeys(least, 1), "token_dim": 2, "depth": 0}
        )
        checks.check_rates(self)
        checks.check_heads(self)
        choices = ("performer", "transformer", "convolution")
        checks.check_choices(self, {"tokens_type": choices})
        checks.check_hidden(self, self.embed_dim)
        pruned.check(self, self.depth)
        sizes = {"img_size": self.image_shape[:2]}
        if self.pos_img_size is not None:
            sizes["pos_img_size"] = (self.pos_img_size, self.pos_img_size)
        for field, (h, w) in sizes.items():
            if h % STRIDE or w % STRIDE or not h * w:
                raise UserError(
                    f"{field}={getattr(self, field)} is not divisible by the stem's "
                    f"stride {STRIDE}; use a multiple, such as {field}="
                    f"{max(1, round(h / STRIDE)) * STRIDE}."
                )

    @property
    def prefix_tokens(self) -> int:
        """Tokens before those of the places: the class token."""
        return 1

    def blocks(self) -> list[BlockParts]:
        """All blocks, with their heads and hidden units."""
        hidden = int(self.embed_dim * self.mlp_ratio)
        one = {"num_heads": self.num_heads, "mlp_hidden": hidden}
        return numbered(pruned.layers(self, [one] * self.depth))

    @property
    def class_token_in_every_block(self) -> bool:
        """Whether the first token of every block is a class token."""
        return True

    def unprunable(self) -> dict[str, str]:
        """No kind: heads and hidden units can be removed."""
        return {}

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w c"], train: bool = False
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        checks.check_images(self, images)
        x = TokensToToken(
            self.embed_dim,
            self.token_dim,
            self.tokens_type,
            name="tokens_to_token",
            **self.dtypes,
        )(images, train)
        b, _, d = x.shape
        token = jnp.broadcast_to(self.table("cls_token", (1, 1, d)), (b, 1, d))
        x = jnp.concatenate([token, x], axis=1) + jnp.asarray(
            self.positions, self.dtype
        )
        width = gates.find(self, "width", d)
        x = functional.gated(x, width)
        x = nn.Dropout(self.drop_rate, deterministic=not train)(x)
        x = PatchDropout(self.patch_drop_rate)(x, train)
        fields = dict(
            num_heads=self.num_heads,
            head_dim=self.embed_dim // self.num_heads,
            mlp_hidden=int(self.embed_dim * self.mlp_ratio),
            qkv_bias=self.qkv_bias,
            init_values=self.init_values,
            proj_drop_rate=self.drop_rate,
            attn_drop_rate=self.attn_drop_rate,
            norm_eps=EPS,
            qk_scale=self.qk_scale,
            **self.dtypes,
        )
        layers = pruned.layers(self, [fields] * self.depth)
        blocks = [partial(Block, **own) for own in layers]
        rates = functional.drop_path_rates(self.drop_path_rate, self.depth)
        x, _ = run_stack(blocks, constrain(x), rates, train, self.plan)
        x = self.last_norm(name="norm")(x, width)
        features = x[:, 0]
        logits = Classifier(self.num_classes, name="head", **self.dtypes)(
            features, train
        )
        return logits, {"tokens": x, "features": features}


# Sizes: width, heads, depth, MLP ratio. Counts: trainable parameters of the official
# code, without the fixed random features and sinusoids. Top-1: its README.
VARIANTS: dict[str, tuple[tuple[int, int, int, float], int, float | None]] = {
    "t2t_vit_7": ((256, 4, 7, 2.0), 4_255_694, 71.7),
    "t2t_vit_10": ((256, 4, 10, 2.0), 5_834_702, 75.2),
    "t2t_vit_12": ((256, 4, 12, 2.0), 6_887_374, 76.5),
    "t2t_vit_14": ((384, 6, 14, 3.0), 21_465_806, 81.5),
    "t2t_vit_19": ((448, 7, 19, 3.0), 39_085_070, 81.9),
    "t2t_vit_24": ((512, 8, 24, 3.0), 64_000_974, 82.3),
    "t2t_vit_t_14": ((384, 6, 14, 3.0), 21_465_422, 81.7),
    "t2t_vit_t_19": ((448, 7, 19, 3.0), 39_084_686, 82.4),
    "t2t_vit_t_24": ((512, 8, 24, 3.0), 64_000_590, 82.6),
    "t2t_vit_14_resnext": ((384, 32, 14, 3.0), 21_465_806, None),
    "t2t_vit_14_wide": ((768, 12, 4, 3.0), 25_000_910, None),
}
# Models with a reference file of their own size.
_FULL = {"7", "10", "12", "14", "24", "t_14", "t_19"}


def _register() -> None:
    for name, ((width, heads, depth, ratio), count, top1) in VARIANTS.items():
        tokens = "transformer" if name.startswith("t2t_vit_t_") else "performer"
        fields: dict[str, Any] = {
            "tokens_type": tokens,
            "embed_dim": width,
            "num_heads": heads,
            "depth": depth,
            "mlp_ratio": ratio,
        }
        full = name.removeprefix("t2t_vit_") in _FULL
        entry = Entry(
            family=T2TViT,
            defaults=fields,
            preprocessing=Preprocessing(*IMAGENET, crop_pct=0.9),
            parameters=count,
            parameters_classes=1000,
            source="yitu-opensource/T2T-ViT 0f63dc9",
            dialect="t2t",
            golden=f"models_full/official_{name}"
            if full
            else f"models_small/small_t2t_{tokens}",
            top1=top1,
        )
        register(name, entry)


_register()
