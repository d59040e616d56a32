"""Converts ViT and DeiT files of huggingface/transformers to timm's names.

Facts: that repository's `convert_vit_timm_to_pytorch.py` and
`convert_deit_timm_to_pytorch.py`.
"""

import re
from collections.abc import Mapping

import numpy as np

from vit_jax_tricks.pretrained.weights import Weights, parts_of


# All names but the heads have the prefix `vit.` or `deit.`.
NAMES = [
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"layernorm\.", "norm."),
    (r"(?:cls_)?classifier\.", "head."),
    (r"distillation_classifier\.", "head_dist."),
]
QKV = r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)"


def to_timm(weights: Weights) -> Weights | None:
    """The arrays of a `ViTFor...` or `DeiTFor...` file, or None for other files.

    The pooler and the mask token are left out.

    Raises:
      UserError: a layer's query, key or value is missing or not a float array.
    """
    marks = [
        re.fullmatch(r"((?:de|v)it\.|)embeddings\.patch_embeddings\..*", name)
        for name in weights.arrays
    ]
    prefix = next((mark[1] for mark in marks if mark is not None), None)
    if prefix is None:
        return None
    arrays = {k.removeprefix(prefix): v for k, v in weights.arrays.items()}
    dropped = [
        k for k in arrays if re.fullmatch(r"pooler\..*|embeddings\.mask_token", k)
    ]
    out = {}
    for name, array in arrays.items():
        match = re.fullmatch(QKV, name)
        if match is not None:
            key = f"blocks.{match[1]}.attn.qkv.{match[3]}"
            if key not in out:
                out[key] = _fused(weights.source, arrays, match)
        elif name not in dropped:
            out[_renamed(name)] = array
    return weights.replace(arrays=out, unneeded=tuple(dropped))


def _renamed(name: str) -> str:
    for pattern, key in NAMES:
        new, count = re.subn(rf"^{pattern}", key, name)
        if count:
            return new
    return name


def _fused(
    source: str, arrays: Mapping[str, np.ndarray], match: re.Match[str]
) -> np.ndarray:
    place = f"encoder.layer.{match[1]}.attention.attention"
    names = [f"{place}.{part}.{match[3]}" for part in ("query", "key", "value")]
    return np.concatenate(parts_of(source, arrays, names))
