"""Base of ConViT and CaiT, whose class token joins after blocks on patches only."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models import checks
from vit_jax_tricks.models.base import PatchModel
from vit_jax_tricks.models.layers import functional, gates
from vit_jax_tricks.models.layers.head import Classifier
from vit_jax_tricks.models.layers.norm import LayerNorm
from vit_jax_tricks.models.layers.patch_embed import PatchEmbed
from vit_jax_tricks.models.token_head import TokenHead
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float, Num


class LateClassToken(PatchModel):
    """Patches + positions -> blocks that add the class token -> norm -> linear.

    Returns `(logits, aux)`; `aux` holds `tokens` [b, 1 + n, d] after the last norm,
    class token first, and `features` [b, d], the classifier's input: the class token
    or, with `global_pool="avg"`, the mean of the patches. With `num_classes=0` the
    logits are the features. The class token has no position. A family adds `width` and
    `_blocks`.

    Field names and meanings are those of timm. Additions: `act_layer` and `norm_eps` by
    value, `scan` (one traced block, parameters stacked under `blocks`) and `remat`
    (recomputes each block in the backward pass).
    """

    global_pool: str = "token"
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    pos_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    use_pos_embed: bool = True
    act_layer: str = "gelu"
    norm_eps: float = 1e-6

    stochastic = (
        *PatchModel.stochastic,
        "pos_drop_rate",
        "proj_drop_rate",
        "attn_drop_rate",
    )

    @property
    def activation(self) -> str:
        """The activation of the MLPs."""
        return self.act_layer

    @property
    def width(self) -> int:
        """Channels of each token."""
        raise NotImplementedError

    @property
    def last_norm(self) -> Callable[..., nn.Module]:
        """Factory of the norm after the last block."""
        return partial(LayerNorm, self.norm_eps, **self.dtypes)

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        sizes = ("patch_size", "in_chans", "embed_dim", "num_heads")
        checks.check_least(self, {**dict.fromkeys(sizes, 1), "depth": 0})
        checks.check_rates(self)
        checks.check_patches(self)
        choices = {
            "global_pool": ("token", "avg"),
            "act_layer": tuple(functional.ACTIVATIONS),
        }
        checks.check_choices(self, choices)
        checks.check_hidden(self, self.width)

    @property
    def prefix_tokens(self) -> int:
        """Tokens before those of the places: the class token."""
        return 1

    def token_head(self) -> TokenHead:
        """The classifier at each place; exact if it takes their mean."""
        return TokenHead.at_each_place(self.grid, exact=self.global_pool == "avg")

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w c"], train: bool = False
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        checks.check_images(self, images)
        embed = PatchEmbed(
            self.width, self.patch_size, name="patch_embed", **self.dtypes
        )
        x = embed(images, train)
        b, n, d = x.shape
        if self.use_pos_embed:
            x = x + self.table("pos_embed", (1, n, d))
        width = gates.find(self, "width", d)
        x = constrain(functional.gated(x, width))
        x = nn.Dropout(self.pos_drop_rate, deterministic=not train)(x)
        cls_token = jnp.broadcast_to(self.table("cls_token", (1, 1, d)), (b, 1, d))
        tokens = self._blocks(x, functional.gated(cls_token, width), train)
        tokens = self.last_norm(name="norm")(tokens, width)
        mean = self.global_pool == "avg"
        features = tokens[:, 1:].mean(1) if mean else tokens[:, 0]
        head = Classifier(self.num_classes, self.drop_rate, name="head", **self.dtypes)
        return head(features, train), {"tokens": tokens, "features": features}

    def _blocks(
        self, x: Float[Array, "b n d"], cls_token: Float[Array, "b 1 d"], train: bool
    ) -> Float[Array, "b m d"]:
        """Applies all blocks; returns class token and patches, m = 1 + n."""
        raise NotImplementedError
