"""Key names of T2T-ViT, as in yitu-opensource/T2T-ViT."""

import math
from typing import Any

import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.t2t_vit import STRIDE
from vit_jax_tricks.pretrained.rules import (
    CONV,
    LINEAR,
    QKV,
    QKV_BIAS,
    KeyNames,
    KeyRule,
    Transform,
    attention,
    conv,
    linear,
    mlp,
    norm,
)
from vit_jax_tricks.pretrained.vit_rules import PLAIN_BLOCK


STEM = "tokens_to_token"
# The last layer of the stem: linear, or a convolution with tokens_type="convolution".
PROJECT = Transform(
    lambda w, shape: (LINEAR if w.ndim == 2 else CONV).load(w, shape),
    lambda w: (LINEAR if w.ndim == 2 else CONV).export(w),
)


def _token_layer(name: str) -> list[KeyRule]:
    """The rules of a performer layer and of a transformer layer."""
    key, path = f"{STEM}.{name}", f"{STEM}/{name}"
    return [
        *norm(f"{key}.norm1", f"{path}/norm1"),
        *norm(f"{key}.norm2", f"{path}/norm2"),
        # Performer: rows of the projection ordered (k q v, feature).
        KeyRule(f"{key}.w", f"batch_stats/{path}/w"),
        KeyRule(f"{key}.kqv.weight", f"params/{path}/kqv/kernel", QKV),
        KeyRule(f"{key}.kqv.bias", f"params/{path}/kqv/bias", QKV_BIAS),
        *linear(f"{key}.proj", f"{path}/proj"),
        *linear(f"{key}.mlp.0", f"{path}/mlp_0"),
        *linear(f"{key}.mlp.2", f"{path}/mlp_2"),
        # Transformer.
        *attention(f"{key}.attn", f"{path}/attn"),
        *mlp(f"{key}.mlp", f"{path}/mlp"),
    ]


def check_positions(source: str, array: np.ndarray, model: Any) -> None:
    """Raises UserError unless a table is one that the model computes, or starts from.

    The tolerance 1e-3 allows for files in half precision.
    """
    table = array.astype(np.float32)
    for computed in (model.positions, model.sinusoids):
        if table.shape == computed.shape and np.abs(table - computed).max() < 1e-3:
            return
    size = math.isqrt(max(array.shape[1] - 1, 0)) * STRIDE if array.ndim == 3 else 0
    raise UserError(
        f"{source}: pos_embed {array.shape} is not the {model.positions.shape} that "
        f"the model computes; create it with img_size={size}, or pos_img_size={size} "
        "to resample the sinusoids of that size."
    )


T2T_VIT = KeyNames(
    {
        "t2t": [
            KeyRule("cls_token", "params/cls_token"),
            *_token_layer("attention1"),
            *_token_layer("attention2"),
            *conv(f"{STEM}.soft_split0", f"{STEM}/soft_split0"),
            *conv(f"{STEM}.soft_split1", f"{STEM}/soft_split1"),
            KeyRule(f"{STEM}.project.weight", f"params/{STEM}/project/kernel", PROJECT),
            KeyRule(f"{STEM}.project.bias", f"params/{STEM}/project/bias"),
            *PLAIN_BLOCK,
            *norm("norm", "norm"),
            *linear("head", "head", head=True),
        ]
    },
    constants={"pos_embed": check_positions},
)
