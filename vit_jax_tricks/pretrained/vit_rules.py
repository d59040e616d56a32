"""Key names of the ViT family, one rule list for each dialect.

timm: `ls1.gamma`; its parallel blocks: `attns.0.norm`; facebookresearch/deit:
`gamma_1`, parallel branches `attn1`, `norm11`, `gamma_1_1`.
"""

from vit_jax_tricks.pretrained.patches import input_channels, patch_embedding
from vit_jax_tricks.pretrained.resize import positions
from vit_jax_tricks.pretrained.rules import (
    KeyRule,
    attention,
    batch_norm,
    conv,
    linear,
    mlp,
    norm,
)


EMBEDDING = [
    KeyRule("cls_token", "params/cls_token"),
    KeyRule("dist_token", "params/dist_token"),
    KeyRule("reg_token", "params/reg_token"),
    KeyRule("pos_embed", "params/pos_embed", resize=positions),
    *conv("patch_embed.proj", "patch_embed/proj", resize=patch_embedding),
]
TOP = [
    *norm("norm_pre", "norm_pre"),
    *norm("norm", "norm"),
    *norm("fc_norm", "fc_norm"),
    *linear("head", "head", head=True),
    *linear("head_dist", "head_dist", head=True),
]
PLAIN_BLOCK = [
    *norm("blocks.{i}.norm1", "blocks_{i}/norm1"),
    *attention("blocks.{i}.attn", "blocks_{i}/attn"),
    *norm("blocks.{i}.norm2", "blocks_{i}/norm2"),
    *mlp("blocks.{i}.mlp", "blocks_{i}/mlp"),
]
TIMM_SCALE = [
    KeyRule("blocks.{i}.ls1.gamma", "params/blocks_{i}/ls1/gamma"),
    KeyRule("blocks.{i}.ls2.gamma", "params/blocks_{i}/ls2/gamma"),
]
DEIT_SCALE = [
    KeyRule("blocks.{i}.gamma_1", "params/blocks_{i}/ls1/gamma"),
    KeyRule("blocks.{i}.gamma_2", "params/blocks_{i}/ls2/gamma"),
]
DEIT_SECOND_BRANCH = [
    *norm("blocks.{i}.norm11", "blocks_{i}/norm1_1"),
    *attention("blocks.{i}.attn1", "blocks_{i}/attn_1"),
    KeyRule("blocks.{i}.gamma_1_1", "params/blocks_{i}/ls1_1/gamma"),
    *norm("blocks.{i}.norm21", "blocks_{i}/norm2_1"),
    *mlp("blocks.{i}.mlp1", "blocks_{i}/mlp_1"),
    KeyRule("blocks.{i}.gamma_2_1", "params/blocks_{i}/ls2_1/gamma"),
]
DEIT_STEM = [
    rule
    for n in range(3)
    for rule in (
        *conv(
            f"patch_embed.proj.{3 * n}",
            f"patch_embed/conv{n}",
            resize=None if n else input_channels,
        ),
        *batch_norm(f"patch_embed.proj.{3 * n + 1}", f"patch_embed/norm{n}"),
    )
]


def _timm_branch(j: int) -> list[KeyRule]:
    end = f"_{j}" if j else ""
    attn, ffn = f"blocks.{{i}}.attns.{j}", f"blocks.{{i}}.ffns.{j}"
    block = "blocks_{i}"
    return [
        *norm(f"{attn}.norm", f"{block}/norm1{end}"),
        *attention(f"{attn}.attn", f"{block}/attn{end}"),
        KeyRule(f"{attn}.ls.gamma", f"params/{block}/ls1{end}/gamma"),
        *norm(f"{ffn}.norm", f"{block}/norm2{end}"),
        *mlp(f"{ffn}.mlp", f"{block}/mlp{end}"),
        KeyRule(f"{ffn}.ls.gamma", f"params/{block}/ls2{end}/gamma"),
    ]


DIALECTS = {
    "timm": [*EMBEDDING, *PLAIN_BLOCK, *TIMM_SCALE, *TOP],
    "timm_parallel": [*EMBEDDING, *_timm_branch(0), *_timm_branch(1), *TOP],
    "deit": [
        *EMBEDDING,
        *DEIT_STEM,
        *PLAIN_BLOCK,
        *DEIT_SCALE,
        *DEIT_SECOND_BRANCH,
        *TOP,
    ],
}
