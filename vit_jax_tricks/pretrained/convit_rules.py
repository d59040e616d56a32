"""Key names of ConViT: those of facebookresearch/convit, which timm kept."""

from vit_jax_tricks.pretrained import vit_rules
from vit_jax_tricks.pretrained.rules import QKV, QKV_BIAS, KeyNames, KeyRule, linear


_ATTN, _PATH = "blocks.{i}.attn", "blocks_{i}/attn"
GATED = [
    KeyRule(f"{_ATTN}.gating_param", f"params/{_PATH}/gating_param"),
    *linear(f"{_ATTN}.pos_proj", f"{_PATH}/pos_proj"),
    *(
        rule
        for name in ("qk", "v")
        for rule in (
            KeyRule(f"{_ATTN}.{name}.weight", f"params/{_PATH}/{name}/kernel", QKV),
            KeyRule(f"{_ATTN}.{name}.bias", f"params/{_PATH}/{name}/bias", QKV_BIAS),
        )
    ),
]
CONVIT = KeyNames(
    {
        "timm": [
            *vit_rules.EMBEDDING,
            *GATED,
            *vit_rules.PLAIN_BLOCK,
            *vit_rules.TOP,
        ],
    }
)
