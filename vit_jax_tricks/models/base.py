"""Bases of the model families: the fields of an image and what follows from them."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import pruned
from vit_jax_tricks.models.blocks import BlockParts
from vit_jax_tricks.models.feature_maps import Level, bound_features
from vit_jax_tricks.models.layers.head import Classifier
from vit_jax_tricks.models.stack import Plan
from vit_jax_tricks.models.token_head import TokenHead
from vit_jax_tricks.param_names import GENERAL
from vit_jax_tricks.typing import Array, Float, Num, Params


class ImageModel(nn.Module):
    """Fields that all families have; `img_size` is one number or (height, width).

    A family describes itself by the methods below, in its own file; nothing outside
    `models` asks which family a model is of. The defaults are those of a model whose
    last tokens are the places of `grid`, whose classifier is named `head`, and whose
    blocks are equal. `hooks` are functions between the blocks, each a `stack.Hook`.
    """

    img_size: int | tuple[int, int] = 224
    in_chans: int = 3
    num_classes: int = 1000
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    scan: bool = False
    remat: bool = False
    hooks: tuple[Any, ...] = ()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    # What the names of parameters say to optimiser, mesh and quantisation.
    roles = GENERAL
    # Fields that make a training step random; 0 or False turns each off.
    stochastic = ("drop_rate", "drop_path_rate")
    # Fields that number the blocks, the first of which that is set counts.
    depth_fields = ("depth",)
    # The first block, in each stage, that `scan` stacks.
    scan_from = 0
    # The key names of the weights, `pretrained.rules.KeyNames`, as module:NAME, because
    # `pretrained` imports this package. The default is our own names.
    key_names = "vit_jax_tricks.pretrained.own_rules:OWN"
    # Names of fields that the family rejects, with the reason.
    refuses = MappingProxyType[str, str]({})

    @staticmethod
    def flatten(overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Converts the nested options of the reference to fields."""
        return dict(overrides)

    @property
    def activation(self) -> str | None:
        """The activation of the MLPs, if it is a field."""
        return None

    @property
    def mixes_images(self) -> bool:
        """Whether a training step mixes the images inside the model."""
        return False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an input image."""
        size = self.img_size
        h, w = (size, size) if isinstance(size, int) else size
        return h, w, self.in_chans

    @property
    def plan(self) -> Plan:
        """The fields that say how the blocks are run."""
        return Plan(self.scan, self.remat, self.hooks)

    @property
    def dtypes(self) -> dict[str, Any]:
        """The fields `dtype` and `param_dtype` of a layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @property
    def feature_info(self) -> tuple[Level, ...]:
        """The feature maps that `features` returns, from the first to the last."""
        raise NotImplementedError

    @property
    def last_norm(self) -> Callable[..., nn.Module] | None:
        """Factory of the norm after the last block, `norm`; None without one."""
        raise NotImplementedError

    def features(
        self,
        images: Num[Array, "b h w c"],
        *,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        prefix_tokens: bool = False,
        train: bool = False,
    ) -> Any:
        """Feature maps [b, h, w, d] as `models.features` returns them.

        For a model in another module, and for `model.apply(..., method="features")`.
        """
        options = {"indices": indices, "norm": norm, "prefix_tokens": prefix_tokens}
        return bound_features(self, images, train=train, **options)

    def table(
        self, name: str, shape: tuple[int, ...], std: float = 0.02
    ) -> Float[Array, "..."]:
        """A learned table in the compute dtype, drawn from a normal distribution."""
        init = nn.initializers.normal(std)
        return self.param(name, init, shape, self.param_dtype).astype(self.dtype)

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens that have positions."""
        raise NotImplementedError

    @property
    def prefix_tokens(self) -> int:
        """Tokens of the output before those of the places: class token and others."""
        return 0

    @property
    def position_prefix(self) -> int:
        """Rows of the position table that belong to prefix tokens."""
        return 0

    @property
    def position_table(self) -> str:
        """Name of the parameter with a position for each place of `grid`."""
        return "pos_embed"

    @property
    def any_size(self) -> bool:
        """Whether one model takes images of any size that `at_size` allows."""
        return False

    @property
    def size_option(self) -> str | None:
        """The field that lets one model take images of any size, as it is typed."""
        return None

    def at_size(self, size: int) -> Any:
        """The model for square images of another size.

        Raises: UserError for a size that it cannot have.
        """
        other = self.clone(img_size=size)
        other.check()
        return other

    def blocks(self) -> list[BlockParts]:
        """All blocks in order, with their heads and hidden units."""
        raise NotImplementedError

    @property
    def class_token_in_every_block(self) -> bool:
        """Whether the first token of every block is a class token."""
        return False

    def unprunable(self) -> dict[str, str]:
        """The kinds of units that cannot be removed from a block, with the reason."""
        return dict.fromkeys(pruned.KINDS, pruned.whole(self))

    def with_units(self, units: Mapping[str, Mapping[str, int]]) -> Any:
        """The model with other numbers of units, by kind and path of the block.

        Blocks without such units may be left out.

        Raises: UserError if the fields do not allow it.
        """
        if not self.__dataclass_fields__.keys() >= set(pruned.KINDS.values()):
            raise UserError(pruned.whole(self))
        return pruned.with_units(self, units)

    @property
    def width(self) -> int:
        """Channels of each token.

        Raises: UserError for a family whose tokens have no single width.
        """
        raise UserError(f"{self.fixed_width()}; its tokens have no single width.")

    def fixed_width(self) -> str | None:
        """The reason why other weights cannot have another width, or None."""
        name = type(self).__name__
        return f"{name} ties its width to stages, heads or fixed positions"

    def with_width(self, width: int) -> Any:
        """The model of another width, with the same heads and hidden units.

        Raises: UserError for a family with a fixed width.
        """
        raise UserError(f"{self.fixed_width()}; prune only heads and hidden units.")

    def token_head(self) -> TokenHead:
        """The form of the model's token logits.

        Raises: UserError for a model without logits for each place of an image.
        """
        return TokenHead.at_each_place(self.grid, exact=False)

    def token_logits(
        self, params: Params, aux: Mapping[str, Array]
    ) -> Float[Array, "b n k"]:
        """The logits of each place of `token_head().grid`, from a call's `aux`."""
        head = self.token_head()
        if head.dense:
            return aux["logits_aux"]
        return self.place_logits(params, head.places(aux["tokens"]))

    def place_logits(
        self, params: Params, places: Float[Array, "b n d"]
    ) -> Float[Array, "b n k"]:
        """The logits of each place, as if all tokens of the image were that one."""
        use_bias = "bias" in params["head"]
        head: Any = Classifier(
            self.num_classes, 0.0, use_bias, parent=None, **self.dtypes
        )
        return head.apply({"params": params["head"]}, places, False)


class PatchModel(ImageModel):
    """An `ImageModel` that cuts images into square patches."""

    patch_size: int = 16

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        h, w, _ = self.image_shape
        return h // self.patch_size, w // self.patch_size
