"""Small models of every family that can be pruned, by name."""

from typing import Any

from vit_jax_tricks.models import create_model


_FLAT = dict(img_size=32, embed_dim=24, depth=3, num_heads=3)
_SWIN = dict(
    img_size=32,
    patch_size=2,
    embed_dim=12,
    depths=(2, 2),
    num_heads=(3, 3),
    window_size=4,
)
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {**_FLAT, "patch_size": 8}),
    "vit rel_bias": (
        "deit3_small_patch16_224",
        {
            **_FLAT,
            "patch_size": 8,
            "pos_embed": "learn+rel_bias",
            "qk_norm": True,
            "qkv": "separate_qv",
        },
    ),
    "vit position MLP": (
        "vit_tiny_patch16_224",
        {**_FLAT, "patch_size": 8, "pos_embed": "rel_mlp", "block_fn": "post_norm"},
    ),
    "vit iRPE": (
        "vit_tiny_patch16_224",
        {
            **_FLAT,
            "patch_size": 8,
            "pos_embed": "irpe_ctx_product_qkv",
            "mlp_layer": "swiglu_packed",
        },
    ),
    "vit convit": (
        "vit_tiny_patch16_224",
        {**_FLAT, "patch_size": 8, "pos_embed": "convit"},
    ),
    "deit distilled": (
        "deit_tiny_distilled_patch16_224",
        {**_FLAT, "patch_size": 8},
    ),
    "swin": ("swin_tiny_patch4_window7_224", _SWIN),
    "swin v2": ("swinv2_tiny_window8_256", _SWIN),
    "lv_vit": ("lvvit_s", _FLAT),
    "t2t_vit": ("t2t_vit_14", _FLAT),
    "convit": (
        "convit_tiny",
        {**_FLAT, "patch_size": 8, "embed_dim": 8, "local_up_to_layer": 2},
    ),
}


def create(family: str, **fields: Any) -> Any:
    """The small model of a family; `fields` on top."""
    name, own = SMALL[family]
    return create_model(name, 5, **{**own, **fields})


def kept(family: str, heads: tuple[int, ...], hidden: tuple[int, ...]) -> dict:
    """The fields of three blocks; Swin's four, by stage, repeat the first."""
    if not family.startswith("swin"):
        return {"block_heads": heads, "block_hidden": hidden}
    nested = [(v[:2], (v[0], v[2])) for v in (heads, hidden)]
    return dict(zip(("block_heads", "block_hidden"), nested, strict=True))
