"""Converts `.npz` files of vision_transformer and big_vision to timm's names.

Facts: `vit_jax/models_vit.py` names modules in the order of their creation, so its
second norm is `LayerNorm_2`; big_vision counts each kind separately (`LayerNorm_1`),
may stack all blocks in one `encoderblock`, and keeps SigLIP's image tower below `img/`.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from vit_jax_tricks.pretrained.weights import Weights, parts_of


PREFIXES = ("", "opt/target/", "params/", "params/img/")
# ImageNet-21k's extra layer between features and head; useless for a new head.
BEFORE_HEAD = r"pre_logits/.*"
Layout = Callable[[np.ndarray], np.ndarray]
DENSE: Layout = np.transpose
MERGE_HEADS: Layout = lambda w: w.reshape(-1, w.shape[-1]).T  # noqa: E731
COPY: Layout = lambda w: w  # noqa: E731

# (pattern, timm name, layout), tried in this order.
_BLOCK = r"Transformer/encoderblock_(\d+)"
_MAP = "MAPHead_0"
NAMES: list[tuple[str, str, Layout]] = [
    (r"cls", "cls_token", COPY),
    (r"embedding/kernel", "patch_embed.proj.weight", lambda w: w.transpose(3, 2, 0, 1)),
    (r"embedding/bias", "patch_embed.proj.bias", COPY),
    (r"(?:Transformer/posembed_input/)?pos_embedding", "pos_embed", COPY),
    (rf"{_BLOCK}/LayerNorm_0/scale", r"blocks.\1.norm1.weight", COPY),
    (rf"{_BLOCK}/LayerNorm_0/bias", r"blocks.\1.norm1.bias", COPY),
    (rf"{_BLOCK}/LayerNorm_[12]/scale", r"blocks.\1.norm2.weight", COPY),
    (rf"{_BLOCK}/LayerNorm_[12]/bias", r"blocks.\1.norm2.bias", COPY),
    (
        rf"{_BLOCK}/MultiHeadDotProductAttention_\d/out/kernel",
        r"blocks.\1.attn.proj.weight",
        MERGE_HEADS,
    ),
    (
        rf"{_BLOCK}/MultiHeadDotProductAttention_\d/out/bias",
        r"blocks.\1.attn.proj.bias",
        COPY,
    ),
    (r"Transformer/encoder_norm/scale", "norm.weight", COPY),
    (r"Transformer/encoder_norm/bias", "norm.bias", COPY),
    (r"head/kernel", "head.weight", DENSE),
    (r"head/bias", "head.bias", COPY),
    (rf"{_MAP}/probe", "attn_pool.latent", COPY),
    (rf"{_MAP}/LayerNorm_0/scale", "attn_pool.norm.weight", COPY),
    (rf"{_MAP}/LayerNorm_0/bias", "attn_pool.norm.bias", COPY),
    (
        rf"{_MAP}/MultiHeadDotProductAttention_0/out/kernel",
        "attn_pool.proj.weight",
        MERGE_HEADS,
    ),
    (rf"{_MAP}/MultiHeadDotProductAttention_0/out/bias", "attn_pool.proj.bias", COPY),
    *(
        (rf"{path}/MlpBlock_\d/Dense_{n}/{ours}", rf"{key}.mlp.fc{n + 1}.{name}", how)
        for path, key in ((_BLOCK, r"blocks.\1"), (_MAP, "attn_pool"))
        for n in (0, 1)
        for ours, name, how in (("kernel", "weight", DENSE), ("bias", "bias", COPY))
    ),
]
# Projections that timm fuses: (pattern, their order, timm name).
FUSED = [
    (
        rf"({_BLOCK}/MultiHeadDotProductAttention_\d)",
        "query key value",
        r"blocks.\2.attn.qkv",
    ),
    (rf"({_MAP}/MultiHeadDotProductAttention_0)", "query", "attn_pool.q"),
    (rf"({_MAP}/MultiHeadDotProductAttention_0)", "key value", "attn_pool.kv"),
]


def to_timm(weights: Weights) -> Weights | None:
    """The arrays in timm's names and layouts, or None for files with other names.

    Keys outside the image tower (text, optimiser) and `pre_logits`, for which timm has
    no layer, are left out; keys inside it without a timm name are kept unchanged.

    Raises:
      UserError: a layer's query, key or value is missing or not a float array.
    """
    inside = [p for p in PREFIXES if f"{p}embedding/kernel" in weights.arrays]
    if not inside:
        return None
    prefix = inside[0]
    arrays = {
        name.removeprefix(prefix): array
        for name, array in weights.arrays.items()
        if name.startswith(prefix)
    }
    arrays = _unstacked(arrays)
    before = [name for name in arrays if re.fullmatch(BEFORE_HEAD, name)]
    dropped = [
        *before,
        *(name for name in weights.arrays if not name.startswith(prefix)),
    ]
    out: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name in dropped:
            continue
        fused = _fuse(weights.source, name, arrays)
        if fused is not None:
            out[fused[0]] = fused[1]
            continue
        key, layout = _renamed(name)
        out[key] = layout(array)
    return weights.replace(
        arrays=out,
        unneeded=tuple(dropped),
        before_head=tuple(before),
        bilinear=True,
        act_layer="gelu_tanh",
    )


def _renamed(name: str) -> tuple[str, Layout]:
    for pattern, key, layout in NAMES:
        match = re.fullmatch(pattern, name)
        if match is not None:
            return match.expand(key), layout
    return name, COPY


def _fuse(
    source: str, name: str, arrays: Mapping[str, np.ndarray]
) -> tuple[str, np.ndarray] | None:
    """The projection that `name` is part of, (out, in) or (out,), or None."""
    for pattern, parts, key in FUSED:
        wanted = parts.split()
        match = re.fullmatch(rf"{pattern}/({'|'.join(wanted)})/(kernel|bias)", name)
        if match is None:
            continue
        place, kind = match[1], match[match.lastindex or 0]
        names = [f"{place}/{part}/{kind}" for part in wanted]
        kernels = parts_of(source, arrays, names)
        if kind == "kernel":  # (d, heads, features)
            rows = [w.reshape(w.shape[0], -1).T for w in kernels]
        else:
            rows = [w.reshape(-1) for w in kernels]
        suffix = "weight" if kind == "kernel" else "bias"
        return f"{match.expand(key)}.{suffix}", np.concatenate(rows)
    return None


def _unstacked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits one stacked `encoderblock` into `encoderblock_0`, `encoderblock_1`, ..."""
    stacked = "Transformer/encoderblock/"
    out = {}
    for name, array in arrays.items():
        if name.startswith(stacked):
            rest = name.removeprefix(stacked)
            for i, layer in enumerate(array):
                out[f"Transformer/encoderblock_{i}/{rest}"] = layer
        else:
            out[name] = array
    return out
