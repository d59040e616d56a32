"""Key names of VOLO in timm, which are those of sail-sg/volo."""

from typing import Any

import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.pretrained.patches import input_channels
from vit_jax_tricks.pretrained.resize import resize_positions
from vit_jax_tricks.pretrained.rules import (
    QKV,
    QKV_BIAS,
    KeyNames,
    KeyRule,
    attention,
    batch_norm,
    conv,
    linear,
    mlp,
    norm,
)


def map_positions(
    array: np.ndarray, expected: tuple[int, ...], model: Any, path: str
) -> np.ndarray:
    """`KeyRule.resize` of a position table [1, h, w, d], bicubic as in `positions`."""
    del path
    if array.shape[-1] != expected[-1]:
        raise UserError(f"its width is {array.shape[-1]}, not {expected[-1]}.")
    _, h, w, d = array.shape
    table = array.astype(np.float32).reshape(1, h * w, d)
    resized = resize_positions(table, model.grid, prefix=0, old_grid=(h, w))
    return np.asarray(resized).reshape(expected)


def _heads(key: str, path: str) -> list[KeyRule]:
    """Rules of a linear layer whose outputs are ordered (.., head, feature)."""
    return [
        KeyRule(f"{key}.weight", f"params/{path}/kernel", QKV),
        KeyRule(f"{key}.bias", f"params/{path}/bias", QKV_BIAS),
    ]


def _block(key: str, path: str) -> list[KeyRule]:
    """Rules of a transformer, outlooker or class block."""
    return [
        *norm(f"{key}.norm1", f"{path}/norm1"),
        *attention(f"{key}.attn", f"{path}/attn"),
        *(
            rule
            for name in ("v", "attn", "q", "kv")
            for rule in _heads(f"{key}.attn.{name}", f"{path}/attn/{name}")
        ),
        *norm(f"{key}.norm2", f"{path}/norm2"),
        *mlp(f"{key}.mlp", f"{path}/mlp"),
    ]


STEM = [
    *(
        rule
        for i, at in enumerate((0, 3, 6), start=1)
        for rule in (
            *conv(
                f"patch_embed.conv.{at}",
                f"patch_embed/conv{i}",
                resize=input_channels if i == 1 else None,
            ),
            *batch_norm(f"patch_embed.conv.{at + 1}", f"patch_embed/bn{i}"),
        )
    ),
    *conv("patch_embed.proj", "patch_embed/proj"),
]
VOLO = KeyNames(
    {
        "timm": [
            KeyRule("cls_token", "params/cls_token"),
            KeyRule("pos_embed", "params/pos_embed", resize=map_positions),
            *STEM,
            *_block("network.{i}.{j}", "network_{i}/blocks_{j}"),
            *conv("network.{i}.proj", "network_{i}/proj"),
            *_block("post_network.{i}", "post_network_{i}"),
            *norm("norm", "norm"),
            *linear("head", "head", head=True),
            *linear("aux_head", "aux_head", head=True),
        ]
    }
)
