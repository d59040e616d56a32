"""Key names of CoAtNet in timm."""

import re
from typing import Any

import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.pretrained.patches import input_channels
from vit_jax_tricks.pretrained.resize_relative import (
    resize_offsets,
    resize_relative_bias,
)
from vit_jax_tricks.pretrained.rules import (
    CONV,
    KeyNames,
    KeyRule,
    Transform,
    batch_norm,
    conv,
    linear,
)


# 1x1 convolution (out, in, 1, 1) <-> kernel [in, out].
POINTWISE = Transform(lambda w, shape: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None])


def _load_qkv(w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    d, _, g, h = shape
    return w.reshape(g, 3, h, d).transpose(3, 1, 0, 2)


def _load_qkv_bias(w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    _, g, h = shape
    return w.reshape(g, 3, h).transpose(1, 0, 2)


# Rows ordered (head, q k v, feature), unlike those of timm's ViT <-> [d, 3, g, h].
QKV = Transform(
    _load_qkv,
    lambda w: w.transpose(2, 1, 3, 0).reshape(-1, w.shape[0], 1, 1),
)
QKV_BIAS = Transform(_load_qkv_bias, lambda w: w.transpose(1, 0, 2).reshape(-1))
# (out, (head, feature), 1, 1) <-> [g, h, d].
PROJ = Transform(
    lambda w, shape: w[:, :, 0, 0].T.reshape(shape),
    lambda w: w.reshape(-1, w.shape[-1]).T[:, :, None, None],
)

KEY, PATH = "stages.{i}.blocks.{j}", "stages_{i}/blocks_{j}"
TABLE = "attn.rel_pos.relative_position_bias_table"


def bias_tables(
    array: np.ndarray,
    expected: tuple[int, ...],
    model: Any,
    path: str,
    *,
    old_model: Any = None,
) -> np.ndarray:
    """`KeyRule.resize` of bias tables: resizes to the map of the path's stage.

    Without `old_model`, whose maps may differ even with as many rows, a table of the
    model's shape is assumed to have its map.
    """
    found = re.search(r"stages_(\d+)/", path)
    stage = int(found[1]) if found else 0
    window = model.maps[stage]
    old_window = None if old_model is None else old_model.maps[stage]
    if array.shape == expected and (array.ndim == 3 or old_window in (None, window)):
        return array
    if array.ndim == 2 and array.shape[1] == expected[1]:
        return resize_relative_bias(array, window, old_window=old_window)
    if array.ndim == 3 and array.shape[0] == expected[0]:
        size = expected[1], expected[2]
        return resize_offsets(array.transpose(1, 2, 0), size).transpose(2, 0, 1)
    raise UserError("it has another number of heads.")


def _pointwise(key: str, path: str | None = None) -> list[KeyRule]:
    path = key.replace(".", "/") if path is None else path
    return [
        KeyRule(f"{KEY}.{key}.weight", f"params/{PATH}/{path}/kernel", POINTWISE),
        KeyRule(f"{KEY}.{key}.bias", f"params/{PATH}/{path}/bias"),
    ]


STEM = [
    *conv("stem.conv1", "stem/conv1", resize=input_channels),
    *batch_norm("stem.norm1", "stem/norm1"),
    *conv("stem.conv2", "stem/conv2"),
]
MBCONV = [
    *batch_norm(f"{KEY}.pre_norm", f"{PATH}/pre_norm"),
    *_pointwise("conv1_1x1"),
    KeyRule(f"{KEY}.conv2_kxk.weight", f"params/{PATH}/conv2_kxk/kernel", CONV),
    *_pointwise("conv3_1x1"),
    *(
        rule
        for gate in ("se", "se_early")
        for fc in ("fc1", "fc2")
        for rule in _pointwise(f"{gate}.{fc}")
    ),
]
CONVNEXT = [
    *conv(f"{KEY}.conv_dw", f"{PATH}/conv_dw"),
    *batch_norm(f"{KEY}.norm", f"{PATH}/norm"),
    KeyRule(f"{KEY}.ls.gamma", f"params/{PATH}/ls/gamma"),
]
ATTENTION = [
    KeyRule(f"{KEY}.attn.qkv.weight", f"params/{PATH}/attn/qkv/kernel", QKV),
    KeyRule(f"{KEY}.attn.qkv.bias", f"params/{PATH}/attn/qkv/bias", QKV_BIAS),
    KeyRule(f"{KEY}.attn.proj.weight", f"params/{PATH}/attn/proj/kernel", PROJ),
    KeyRule(f"{KEY}.attn.proj.bias", f"params/{PATH}/attn/proj/bias"),
    KeyRule(
        f"{KEY}.{TABLE}",
        f"params/{PATH}/{TABLE.replace('.', '/')}",
        resize=bias_tables,
    ),
    *(
        rule
        for fc in ("fc1", "fc2")
        for rule in linear(
            f"{KEY}.attn.rel_pos.mlp.{fc}", f"{PATH}/attn/rel_pos/mlp/{fc}"
        )
    ),
]
# Norms are batch norms in convolution blocks, and layer norms (without statistics) or
# batch norms in transformer blocks; both call the second one norm2.
BLOCK = [
    *batch_norm(f"{KEY}.norm1.norm", f"{PATH}/norm1/norm"),
    *batch_norm(f"{KEY}.norm1", f"{PATH}/norm1"),
    *batch_norm(f"{KEY}.norm2", f"{PATH}/norm2"),
    *_pointwise("shortcut.expand"),
    *_pointwise("mlp.fc1"),
    *_pointwise("mlp.fc2"),
    KeyRule(f"{KEY}.ls1.gamma", f"params/{PATH}/ls1/gamma"),
    KeyRule(f"{KEY}.ls2.gamma", f"params/{PATH}/ls2/gamma"),
]
TOP = [
    *batch_norm("norm", "norm"),
    *batch_norm("head.norm", "head/norm"),
    *linear("head.pre_logits.fc", "head/pre_logits/fc"),
    *linear("head.fc", "head/fc", head=True),
]
COATNET = KeyNames({"timm": [*STEM, *MBCONV, *CONVNEXT, *ATTENTION, *BLOCK, *TOP]})
