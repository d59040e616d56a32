"""Class logits for every place of an image, from any model.

A dense head gives them directly (LV-ViT, VOLO). Other models classify one pooled
feature; their classifier is applied at each place instead, which is exact if the
feature is the mean over the places, and an approximation otherwise.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.compress.quant.model import QuantizedModel
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.coatnet import CoAtNet
from vit_jax_tricks.models.coatnet_parts import PooledHead
from vit_jax_tricks.models.layers.functional.pooling import GLOBAL_POOLS
from vit_jax_tricks.models.layers.head import Classifier
from vit_jax_tricks.models.layers.norm import NORMS
from vit_jax_tricks.models.swin import WindowedTransformer
from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.models.vit_front import VitFront
from vit_jax_tricks.models.volo import VOLO
from vit_jax_tricks.typing import Array, Float, Params


POOLS = ("token", "avg", "max", "avgmax", "catavgmax")


@dataclasses.dataclass(frozen=True)
class Form:
    """The way a model gives token logits, on a grid of (rows, columns).

    `name` is "dense head"; "head at each place", whose mean over the places is the
    image's logits; or "head at each place, an approximation".
    """

    name: str
    grid: tuple[int, int]

    @property
    def exact(self) -> bool:
        return "approximation" not in self.name


def form_of(model: Any) -> Form:
    """The form of a model's token logits; nothing is computed.

    Raises:
      UserError: the model is quantised, it pools by attention, so that no place has its
        own class, or its dense head leaves places out.
    """
    if isinstance(model, QuantizedModel):
        raise UserError(
            "a quantised model has no token logits; use the float run that it was "
            "made from."
        )
    model = _plain(model)
    images = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    _, aux = jax.eval_shape(
        lambda key, x: model.init_with_output(key, x, train=False)[0],
        jax.random.key(0),
        images,
    )
    dense = "logits_aux" in aux
    count = aux["logits_aux" if dense else "tokens"].shape[1]
    grid = model.maps[-1] if isinstance(model, CoAtNet) else model.grid
    while grid[0] * grid[1] > count:  # stages merge patches by 2 x 2
        grid = -(-grid[0] // 2), -(-grid[1] // 2)
    if dense:
        if grid[0] * grid[1] != count:
            raise UserError(
                f"the teacher's dense head classifies {count} tokens, which are no "
                "grid of the image; use another teacher."
            )
        return Form("dense head", grid)
    pool = getattr(model, "global_pool", "token")
    if pool not in POOLS:
        raise UserError(
            f'global_pool="{pool}": an image\'s classes come from attention over all '
            "its places, so no place has its own classes; use another teacher."
        )
    exact = pool == "avg"
    if isinstance(model, VisionTransformer):
        fc_norm = True if model.fc_norm is None else model.fc_norm
        exact &= not (model.final_norm and fc_norm)
        exact &= not (model.pool_include_prefix and model.prefix_tokens)
    elif isinstance(model, CoAtNet):
        exact &= not model.head_hidden_size
    elif isinstance(model, VOLO):  # its mean includes the class token
        exact &= model.post_layers is None
    name = "head at each place"
    return Form(name if exact else f"{name}, an approximation", grid)


def token_logits(
    model: Any, variables: Params, images: Float[Array, "b h w c"], form: Form
) -> tuple[Float[Array, "b k"], Float[Array, "b p q k"]]:
    """The logits of images, as in evaluation, and of each of their places.

    Args:
      images: normalised images.
      form: the form of the model, `form_of(model)`.
    """
    model = _plain(model)
    logits, aux = model.apply(variables, images, train=False)
    if form.name == "dense head":
        dense = aux["logits_aux"]
    else:
        rows, columns = form.grid
        places = aux["tokens"][:, -rows * columns :]
        dense = _classified(model, variables["params"], places)
    return logits, dense.reshape(len(images), *form.grid, -1)


def _plain(model: Any) -> Any:
    """The `VisionTransformer` inside a model of its relatives."""
    return model.vit(parent=None) if isinstance(model, VitFront) else model


def _classified(
    model: Any, params: Params, places: Float[Array, "b n d"]
) -> Float[Array, "b n k"]:
    """Applies the layers after pooling at each place."""
    dtypes = {"dtype": model.dtype, "param_dtype": model.param_dtype}
    head, shape = params["head"], places.shape[:-1]
    maps = places.reshape(-1, 1, 1, places.shape[-1])  # pooling one place changes none
    if isinstance(model, CoAtNet):
        pooled_head = PooledHead(
            model.num_classes,
            model.global_pool,
            model.head_hidden_size,
            0.0,
            model.transformer_norm_layer,
            model.transformer_norm_eps,
            **dtypes,
        )
        logits = pooled_head.apply({"params": head}, maps, False)[0]
        return logits.reshape(*shape, -1)
    x = places
    if isinstance(model, WindowedTransformer):
        x = GLOBAL_POOLS[model.global_pool](maps).reshape(*shape, -1)
    if "fc_norm" in params:
        norm = NORMS[model.norm_layer](model.norm_eps, model.dtype, model.param_dtype)
        x = norm.apply({"params": params["fc_norm"]}, x)
    classifier: Any = Classifier(model.num_classes, 0.0, "bias" in head, **dtypes)
    return classifier.apply({"params": head}, x, False)
