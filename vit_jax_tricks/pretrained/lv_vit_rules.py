"""Key names of LV-ViT, as in zihangJiang/TokenLabeling."""

from vit_jax_tricks.pretrained.patches import input_channels
from vit_jax_tricks.pretrained.resize import plain_positions
from vit_jax_tricks.pretrained.rules import (
    CONV,
    KeyNames,
    KeyRule,
    batch_norm,
    conv,
    linear,
    norm,
)
from vit_jax_tricks.pretrained.vit_rules import PLAIN_BLOCK


STEM = [
    *(
        rule
        for i in (1, 2, 3)
        for rule in (
            KeyRule(
                f"patch_embed.conv{i}.weight",
                f"params/patch_embed/conv{i}/kernel",
                CONV,
                input_channels if i == 1 else None,
            ),
            *batch_norm(f"patch_embed.bn{i}", f"patch_embed/bn{i}"),
        )
    ),
    *conv("patch_embed.proj", "patch_embed/proj"),
]
LV_VIT = KeyNames(
    {
        "tlt": [
            KeyRule("cls_token", "params/cls_token"),
            KeyRule("pos_embed", "params/pos_embed", resize=plain_positions),
            *STEM,
            *PLAIN_BLOCK,
            *norm("norm", "norm"),
            *linear("head", "head", head=True),
            *linear("aux_head", "aux_head", head=True),
        ]
    }
)
