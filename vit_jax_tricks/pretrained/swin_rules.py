"""Key names of Swin and Swin V2, in timm and in microsoft/Swin-Transformer.

timm starts stage i with the patch merging (`layers.i.downsample`) and calls the head
`head.fc`; the official code ends stage i - 1 with the same merging.
"""

import re
from typing import Any

import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.pretrained.patches import patch_embedding
from vit_jax_tricks.pretrained.resize import plain_positions
from vit_jax_tricks.pretrained.resize_relative import resize_relative_bias
from vit_jax_tricks.pretrained.rules import (
    LINEAR,
    PROJ,
    QKV,
    QKV_BIAS,
    KeyNames,
    KeyRule,
    Transform,
    conv,
    linear,
    mlp,
    norm,
)


# (g, 1, 1) <-> [g].
SCALE = Transform(lambda w, shape: w.reshape(shape), lambda w: w.reshape(-1, 1, 1))

KEY, PATH = "layers.{i}.blocks.{j}", "layers_{i}/blocks_{j}"


def bias_tables(
    array: np.ndarray,
    expected: tuple[int, ...],
    model: Any,
    path: str,
    *,
    old_model: Any = None,
) -> np.ndarray:
    """`KeyRule.resize` of bias tables: resizes to the window of the path's stage.

    Without `old_model`, whose windows may differ even with as many rows, a table of the
    model's shape is assumed to have its window.
    """
    if array.shape[1:] != expected[1:]:
        raise UserError(f"it is for {array.shape[1:]} heads, not {expected[1:]}.")
    found = re.search(r"layers_(\d+)/", path)
    stage = int(found[1]) if found else 0
    window, _ = model.windows(stage)
    old_window, _ = (None, 0) if old_model is None else old_model.windows(stage)
    if array.shape == expected and old_window in (None, window):
        return array
    return resize_relative_bias(array, window, old_window=old_window)


BLOCK = [
    *norm(f"{KEY}.norm1", f"{PATH}/norm1"),
    *norm(f"{KEY}.norm2", f"{PATH}/norm2"),
    *mlp(f"{KEY}.mlp", f"{PATH}/mlp"),
    KeyRule(f"{KEY}.attn.qkv.weight", f"params/{PATH}/attn/qkv/kernel", QKV),
    KeyRule(f"{KEY}.attn.proj.weight", f"params/{PATH}/attn/proj/kernel", PROJ),
    KeyRule(f"{KEY}.attn.proj.bias", f"params/{PATH}/attn/proj/bias"),
]
TABLE = [
    KeyRule(f"{KEY}.attn.qkv.bias", f"params/{PATH}/attn/qkv/bias", QKV_BIAS),
    KeyRule(
        f"{KEY}.attn.relative_position_bias_table",
        f"params/{PATH}/attn/relative_position_bias_table",
        resize=bias_tables,
    ),
]
COSINE = [
    KeyRule(f"{KEY}.attn.q_bias", f"params/{PATH}/attn/q_bias", QKV_BIAS),
    KeyRule(f"{KEY}.attn.v_bias", f"params/{PATH}/attn/v_bias", QKV_BIAS),
    KeyRule(f"{KEY}.attn.logit_scale", f"params/{PATH}/attn/logit_scale", SCALE),
    *linear(f"{KEY}.attn.cpb_mlp.0", f"{PATH}/attn/cpb_mlp/fc1"),
    *linear(f"{KEY}.attn.cpb_mlp.2", f"{PATH}/attn/cpb_mlp/fc2"),
]
EDGES = [
    *conv("patch_embed.proj", "patch_embed/proj", resize=patch_embedding),
    *norm("patch_embed.norm", "patch_embed/norm"),
    KeyRule("absolute_pos_embed", "params/absolute_pos_embed", resize=plain_positions),
    *norm("norm", "norm"),
]


def _merging(key: str, path: str) -> list[KeyRule]:
    reduction = KeyRule(
        f"{key}.reduction.weight", f"params/{path}/reduction/kernel", LINEAR
    )
    return [*norm(f"{key}.norm", f"{path}/norm"), reduction]


TIMM = [
    *_merging("layers.{i}.downsample", "layers_{i}/downsample"),
    *linear("head.fc", "head", head=True),
]
OFFICIAL = [
    *_merging("layers.{i}.downsample", "layers_{i+1}/downsample"),
    *linear("head", "head", head=True),
]
SWIN = KeyNames(
    {
        "timm": [*EDGES, *BLOCK, *TABLE, *TIMM],
        "official": [*EDGES, *BLOCK, *TABLE, *OFFICIAL],
    }
)
SWIN_V2 = KeyNames(
    {
        "timm": [*EDGES, *BLOCK, *COSINE, *TIMM],
        "official": [*EDGES, *BLOCK, *COSINE, *OFFICIAL],
    }
)
