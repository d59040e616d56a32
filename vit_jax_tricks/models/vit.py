"""Vision Transformer and its plain relatives: ViT, DeiT, DeiT-III, CLIP images."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import checks
from vit_jax_tricks.models.block import run_blocks
from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.head import Classifier
from vit_jax_tricks.models.layers.norm import LayerNorm
from vit_jax_tricks.models.layers.patch_embed import HierarchicalStem, PatchEmbed
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float, Num


class VisionTransformer(nn.Module):
    """Patches + positions -> pre-norm blocks -> norm -> class token or mean -> linear.

    Returns `(logits, aux)`; `aux` holds `tokens` [b, n, d] after the last norm, prefix
    tokens first, and `features` [b, d], the classifier's input. A distilled model adds
    `features_dist`, `logits_cls` and `logits_dist`; its logits are the class head's in
    training and the mean of both heads in evaluation. `num_classes=0` makes the
    features the logits.

    Field names and meanings are those of timm's `VisionTransformer`. Additions:
    `distilled` (timm's `VisionTransformerDistilled`), `act_layer` and `norm_eps` by
    value, `head_bias` (CLIP's projection has none), `drop_path_decay` ("linear" or
    "constant"), `parallel` and `stem="hmlp"`
    (Touvron et al. 2022, arXiv 2203.09795), `scan` (one traced block, parameters
    stacked under `blocks`), `remat` (recompute each block in the backward pass).
    Sources: Dosovitskiy et al. 2020, arXiv 2010.11929; Touvron et al. 2020 (DeiT),
    arXiv 2012.12877; Touvron et al. 2022 (DeiT-III), arXiv 2204.07118.
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    global_pool: str = "token"
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_norm: bool = False
    init_values: float | None = None
    class_token: bool = True
    distilled: bool = False
    no_embed_class: bool = False
    reg_tokens: int = 0
    pre_norm: bool = False
    fc_norm: bool | None = None
    head_bias: bool = True
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    patch_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    drop_path_decay: str = "linear"
    act_layer: str = "gelu"
    norm_eps: float = 1e-6
    parallel: int = 1
    stem: str = "patch"
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an input image."""
        size = self.img_size
        h, w = (size, size) if isinstance(size, int) else size
        return h, w, self.in_chans

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        h, w, _ = self.image_shape
        return h // self.patch_size, w // self.patch_size

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patch tokens: class, distillation, registers."""
        return int(self.class_token) + int(self.distilled) + self.reg_tokens

    @property
    def position_prefix(self) -> int:
        """Rows of the position table that belong to prefix tokens."""
        return 0 if self.no_embed_class else self.prefix_tokens

    def check(self) -> None:
        """Raises UserError where the fields contradict one another."""
        sizes = ("patch_size", "in_chans", "embed_dim", "num_heads", "parallel")
        checks.check_least(self, {**dict.fromkeys(sizes, 1), "depth": 0})
        checks.check_rates(self)
        p = self.patch_size
        if self.embed_dim * self.mlp_ratio < 1:
            raise UserError(f"mlp_ratio={self.mlp_ratio} leaves no hidden units.")
        checks.check_heads(self)
        checks.check_patches(self)
        choices = {
            "global_pool": ("token", "avg"),
            "drop_path_decay": ("linear", "constant"),
            "stem": ("patch", "hmlp"),
            "act_layer": tuple(functional.ACTIVATIONS),
        }
        checks.check_choices(self, choices)
        if not self.class_token and (self.global_pool == "token" or self.distilled):
            raise UserError(
                'class_token=False needs global_pool="avg" and distilled=False, since '
                "there is no token to classify from."
            )
        if self.distilled and self.global_pool != "token":
            raise UserError('distilled=True needs global_pool="token".')
        if self.stem == "hmlp" and (p != 16 or self.embed_dim % 4):
            raise UserError(
                'stem="hmlp" needs patch_size=16 and an embed_dim divisible by 4; got '
                f"patch_size={p}, embed_dim={self.embed_dim}."
            )

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w c"], train: bool = False
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        checks.check_images(self, images)
        norm = partial(LayerNorm, self.norm_eps, self.dtype, self.param_dtype)
        x = constrain(self._embed(images, train))
        if self.pre_norm:
            x = norm(name="norm_pre")(x)
        x = self._blocks(x, train)
        fc_norm = self.global_pool == "avg" if self.fc_norm is None else self.fc_norm
        if not fc_norm:
            x = norm(name="norm")(x)
        if self.global_pool == "avg":
            features = x[:, self.prefix_tokens :].mean(1)
        else:
            features = x[:, 0]
        if fc_norm:
            features = norm(name="fc_norm")(features)
        return self._heads(x, features, train)

    def _embed(
        self, images: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b n d"]:
        """Patch tokens with positions, prefix tokens first."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.stem == "hmlp":
            stem = HierarchicalStem(self.embed_dim, name="patch_embed", **dtypes)
        else:
            stem = PatchEmbed(
                self.embed_dim,
                self.patch_size,
                use_bias=not self.pre_norm,
                name="patch_embed",
                **dtypes,
            )
        x = stem(images, train)
        b, n, d = x.shape

        def param(name: str, rows: int, std: float) -> Float[Array, "1 r d"]:
            init = nn.initializers.normal(std)
            value = self.param(name, init, (1, rows, d), self.param_dtype)
            return value.astype(self.dtype)

        prefix = []
        if self.class_token:
            prefix.append(param("cls_token", 1, 1e-6))
        if self.distilled:
            prefix.append(param("dist_token", 1, 0.02))
        if self.reg_tokens:
            prefix.append(param("reg_token", self.reg_tokens, 1e-6))
        prefix = [jnp.broadcast_to(p, (b, *p.shape[1:])) for p in prefix]
        positions = param("pos_embed", n + self.position_prefix, 0.02)
        if self.no_embed_class:
            x = jnp.concatenate([*prefix, x + positions], axis=1)
        else:
            x = jnp.concatenate([*prefix, x], axis=1) + positions
        x = nn.Dropout(self.pos_drop_rate, deterministic=not train)(x)
        if train and self.patch_drop_rate > 0:
            key = self.make_rng("dropout")
            x = functional.patch_dropout(
                key, x, self.patch_drop_rate, prefix=self.prefix_tokens
            )
        return x

    def _blocks(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        """All transformer blocks."""
        fields = dict(
            num_heads=self.num_heads,
            head_dim=self.embed_dim // self.num_heads,
            mlp_hidden=int(self.embed_dim * self.mlp_ratio),
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            init_values=self.init_values,
            proj_drop_rate=self.proj_drop_rate,
            attn_drop_rate=self.attn_drop_rate,
            act_layer=self.act_layer,
            norm_eps=self.norm_eps,
            parallel=self.parallel,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        rates = functional.drop_path_rates(
            self.drop_path_rate, self.depth, decay=self.drop_path_decay
        )
        layers = [fields] * self.depth
        return run_blocks(layers, x, rates, train, scan=self.scan, remat=self.remat)

    def _heads(
        self,
        tokens: Float[Array, "b n d"],
        features: Float[Array, "b d"],
        train: bool,
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        """Logits, in at least float32, and the named intermediates."""
        head = partial(
            Classifier,
            self.num_classes,
            self.drop_rate,
            self.head_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        logits = head(name="head")(features, train)
        aux = {"tokens": tokens, "features": features}
        if self.distilled:
            aux["features_dist"] = tokens[:, 1]
            aux["logits_cls"] = logits
            aux["logits_dist"] = head(name="head_dist")(tokens[:, 1], train)
            if not train:
                logits = (logits + aux["logits_dist"]) / 2
        return logits, aux
