"""Key names of CaiT: those of facebookresearch/deit, which timm kept."""

from vit_jax_tricks.pretrained import vit_rules
from vit_jax_tricks.pretrained.rules import (
    PROJ,
    QKV,
    QKV_BIAS,
    KeyNames,
    KeyRule,
    linear,
    mlp,
    norm,
)


TALKING_HEADS = [
    rule
    for name in ("proj_l", "proj_w")
    for rule in linear(f"blocks.{{i}}.attn.{name}", f"blocks_{{i}}/attn/{name}")
]
_KEY, _PATH = "blocks_token_only.{i}", "blocks_token_only_{i}"
_QKV = [(f"{_KEY}.attn.{name}", f"params/{_PATH}/attn/{name}") for name in "qkv"]
CLASS_ATTENTION = [
    KeyRule(f"{_KEY}.gamma_1", f"params/{_PATH}/ls1/gamma"),
    KeyRule(f"{_KEY}.gamma_2", f"params/{_PATH}/ls2/gamma"),
    *norm(f"{_KEY}.norm1", f"{_PATH}/norm1"),
    *(
        rule
        for key, path in _QKV
        for rule in (
            KeyRule(f"{key}.weight", f"{path}/kernel", QKV),
            KeyRule(f"{key}.bias", f"{path}/bias", QKV_BIAS),
        )
    ),
    KeyRule(f"{_KEY}.attn.proj.weight", f"params/{_PATH}/attn/proj/kernel", PROJ),
    KeyRule(f"{_KEY}.attn.proj.bias", f"params/{_PATH}/attn/proj/bias"),
    *norm(f"{_KEY}.norm2", f"{_PATH}/norm2"),
    *mlp(f"{_KEY}.mlp", f"{_PATH}/mlp"),
]
CAIT = KeyNames(
    {
        "timm": [
            *vit_rules.EMBEDDING,
            *vit_rules.PLAIN_BLOCK,
            *vit_rules.DEIT_SCALE,
            *TALKING_HEADS,
            *CLASS_ATTENTION,
            *vit_rules.TOP,
        ],
    }
)
