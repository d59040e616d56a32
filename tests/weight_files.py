"""Synthetic weights under the names of other programs; only NumPy is needed."""

from collections.abc import Mapping

import numpy as np
from goldens import base_normal


# A ViT small enough to store: one block, 16 patches.
SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}


def synthetic(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Numbers by name and shape alone: norm scales near 1, the rest small."""
    return {
        name: base_normal(name, shape) * np.float32(0.1)
        + np.float32(name.endswith(("scale", "norm1.weight", "norm2.weight")))
        for name, shape in shapes.items()
    }


def timm_vit(
    *, d: int, depth: int, image: int, patch: int, classes: int, channels: int = 3
) -> dict[str, np.ndarray]:
    """A plain ViT in timm's names."""
    tokens = (image // patch) ** 2 + 1
    shapes = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, tokens, d),
        "patch_embed.proj.weight": (d, channels, patch, patch),
        "patch_embed.proj.bias": (d,),
        "norm.weight": (d,),
        "norm.bias": (d,),
        "head.weight": (classes, d),
        "head.bias": (classes,),
    }
    for i in range(depth):
        block = f"blocks.{i}"
        shapes |= {
            f"{block}.norm1.weight": (d,),
            f"{block}.norm1.bias": (d,),
            f"{block}.attn.qkv.weight": (3 * d, d),
            f"{block}.attn.qkv.bias": (3 * d,),
            f"{block}.attn.proj.weight": (d, d),
            f"{block}.attn.proj.bias": (d,),
            f"{block}.norm2.weight": (d,),
            f"{block}.norm2.bias": (d,),
            f"{block}.mlp.fc1.weight": (4 * d, d),
            f"{block}.mlp.fc1.bias": (4 * d,),
            f"{block}.mlp.fc2.weight": (d, 4 * d),
            f"{block}.mlp.fc2.bias": (d,),
        }
    return synthetic(shapes)


def _attention(name: str, d: int, heads: int) -> dict[str, tuple[int, ...]]:
    h = d // heads
    parts = ("query", "key", "value")
    return {
        **{f"{name}/{part}/kernel": (d, heads, h) for part in parts},
        **{f"{name}/{part}/bias": (heads, h) for part in parts},
        f"{name}/out/kernel": (heads, h, d),
        f"{name}/out/bias": (d,),
    }


def _mlp(name: str, d: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}/Dense_0/kernel": (d, 4 * d),
        f"{name}/Dense_0/bias": (4 * d,),
        f"{name}/Dense_1/kernel": (4 * d, d),
        f"{name}/Dense_1/bias": (d,),
    }


def _norm(name: str, d: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/scale": (d,), f"{name}/bias": (d,)}


def augreg(classes: int = 5, d: int = 16) -> dict[str, np.ndarray]:
    """The SMALL ViT as google-research/vision_transformer saves one, 21k style."""
    block = "Transformer/encoderblock_0"
    return synthetic(
        {
            "cls": (1, 1, d),
            "embedding/kernel": (4, 4, 3, d),
            "embedding/bias": (d,),
            "Transformer/posembed_input/pos_embedding": (1, 17, d),
            **_norm(f"{block}/LayerNorm_0", d),
            **_attention(f"{block}/MultiHeadDotProductAttention_1", d, 2),
            **_norm(f"{block}/LayerNorm_2", d),
            **_mlp(f"{block}/MlpBlock_3", d),
            **_norm("Transformer/encoder_norm", d),
            "pre_logits/kernel": (d, d),
            "pre_logits/bias": (d,),
            "head/kernel": (d, classes),
            "head/bias": (classes,),
        }
    )


def siglip(d: int = 16) -> dict[str, np.ndarray]:
    """The SMALL ViT as big_vision saves SigLIP: stacked blocks, MAP head, text."""
    block, pool = "Transformer/encoderblock", "MAPHead_0"
    stacked = {
        **_norm(f"{block}/LayerNorm_0", d),
        **_attention(f"{block}/MultiHeadDotProductAttention_0", d, 2),
        **_norm(f"{block}/LayerNorm_1", d),
        **_mlp(f"{block}/MlpBlock_0", d),
    }
    image = {
        "embedding/kernel": (4, 4, 3, d),
        "embedding/bias": (d,),
        "pos_embedding": (1, 16, d),
        **{name: (1, *shape) for name, shape in stacked.items()},
        **_norm("Transformer/encoder_norm", d),
        f"{pool}/probe": (1, 1, d),
        **_attention(f"{pool}/MultiHeadDotProductAttention_0", d, 2),
        **_norm(f"{pool}/LayerNorm_0", d),
        **_mlp(f"{pool}/MlpBlock_0", d),
    }
    shapes = {f"params/img/{name}": shape for name, shape in image.items()}
    text = {"params/txt/Embed_0/embedding": (7, d), "params/t": (1,), "params/b": (1,)}
    return synthetic(shapes | text)


def transformers_vit(classes: int = 5, d: int = 16) -> dict[str, np.ndarray]:
    """The SMALL ViT as `ViTForImageClassification.save_pretrained` writes it."""
    layer = "vit.encoder.layer.0"
    linear = {
        f"{layer}.attention.attention.query": (d, d),
        f"{layer}.attention.attention.key": (d, d),
        f"{layer}.attention.attention.value": (d, d),
        f"{layer}.attention.output.dense": (d, d),
        f"{layer}.intermediate.dense": (4 * d, d),
        f"{layer}.output.dense": (d, 4 * d),
        "classifier": (classes, d),
    }
    norms = (f"{layer}.layernorm_before", f"{layer}.layernorm_after", "vit.layernorm")
    return synthetic(
        {
            "vit.embeddings.cls_token": (1, 1, d),
            "vit.embeddings.position_embeddings": (1, 17, d),
            "vit.embeddings.patch_embeddings.projection.weight": (d, 3, 4, 4),
            "vit.embeddings.patch_embeddings.projection.bias": (d,),
            **{f"{name}.weight": shape for name, shape in linear.items()},
            **{f"{name}.bias": shape[:1] for name, shape in linear.items()},
            **{f"{n}.{kind}": (d,) for n in norms for kind in ("weight", "bias")},
        }
    )


def smooth_image(height: int, width: int) -> np.ndarray:
    """A uint8 RGB picture with structure at several scales."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + c)) * np.cos(y / (5 - c)) for c in range(3)]
    noise = base_normal("smooth_image", (height, width, 3)) * 10
    return np.clip(128 + 90 * np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)
