"""A `VisionTransformer` under the field names of another reference class."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from vit_jax_tricks.models.base import PatchModel
from vit_jax_tricks.models.blocks import BlockParts
from vit_jax_tricks.models.feature_maps import Level
from vit_jax_tricks.models.token_head import TokenHead
from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.typing import Array, Float, Num, Params


class VitFront(PatchModel):
    """Base of families whose fields only describe a `VisionTransformer`.

    A family adds its own fields to those that all of them have, and `vit`. Parameters
    and outputs are those of `vit()`.
    """

    global_pool: str = "avg"
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    norm_eps: float = 1e-6

    stochastic = (
        *PatchModel.stochastic,
        "proj_drop_rate",
        "attn_drop_rate",
    )

    def vit(self, **more: Any) -> VisionTransformer:
        """The equivalent `VisionTransformer`; `more` holds its parent."""
        raise NotImplementedError

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patch tokens."""
        return self.vit(parent=None).prefix_tokens

    @property
    def position_prefix(self) -> int:
        """Rows of the position table that belong to prefix tokens."""
        return self.vit(parent=None).position_prefix

    @property
    def feature_info(self) -> tuple[Level, ...]:
        """The feature maps: the output of each block."""
        return self.vit(parent=None).feature_info

    @property
    def last_norm(self) -> Callable[..., nn.Module] | None:
        """Factory of the norm after the blocks; None without one."""
        return self.vit(parent=None).last_norm

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        self.vit(parent=None).check()

    def blocks(self) -> list[BlockParts]:
        """All blocks, with their heads and hidden units."""
        return self.vit(parent=None).blocks()

    @property
    def class_token_in_every_block(self) -> bool:
        """Whether the first token of every block is a class token."""
        return self.vit(parent=None).class_token_in_every_block

    def token_head(self) -> TokenHead:
        """The form of the model's token logits."""
        return self.vit(parent=None).token_head()

    def place_logits(
        self, params: Params, places: Float[Array, "b n d"]
    ) -> Float[Array, "b n k"]:
        """The logits of each place."""
        return self.vit(parent=None).place_logits(params, places)

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w c"], train: bool = False
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        return self.vit(parent=self.scope)(images, train)

    def fields(self, *left_out: str) -> dict[str, Any]:
        """This module's own fields by name, except `left_out`."""
        return {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in (*left_out, "parent", "name")
        }
