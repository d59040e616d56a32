"""Key names that ViT's relatives add to the plain ViT: timm's, and iRPE's.

Covers other positions, norms and projections of the attention, gated MLPs, attention
pooling and the parallel scaling block; then the whole dialects of `Eva`.
"""

from typing import Any

import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.pretrained import (
    augreg,
    clip_rules,
    transformers_names,
    vit_rules,
)
from vit_jax_tricks.pretrained.resize_relative import resize_relative_bias
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


def bias_tables(
    array: np.ndarray,
    expected: tuple[int, ...],
    model: Any,
    path: str,
    *,
    old_grid: tuple[int, int] | None = None,
) -> np.ndarray:
    """`KeyRule.resize` of bias tables over the whole grid, with prefix rows at the end.

    A table of the model's shape is assumed to have the model's grid, unless `old_grid`
    differs.
    """
    del path
    h, w = model.grid
    if array.shape[1:] != expected[1:]:
        raise UserError(f"it is not a table of {expected[1]} heads.")
    if array.shape == expected and old_grid in (None, (h, w)):
        return array
    split = len(array) - (expected[0] - (2 * h - 1) * (2 * w - 1))
    table = resize_relative_bias(array[: max(split, 0)], (h, w), old_window=old_grid)
    return np.concatenate([table, array[split:]])


def _projection(key: str, path: str) -> list[KeyRule]:
    """Rules of a separate projection for queries, keys or values."""
    return [
        KeyRule(f"{key}.weight", f"params/{path}/kernel", QKV),
        KeyRule(f"{key}.bias", f"params/{path}/bias", QKV_BIAS),
    ]


def _relative(key: str, path: str) -> list[KeyRule]:
    """Rules of timm's relative position bias."""
    name = "relative_position_bias_table"
    return [
        KeyRule(f"{key}.{name}", f"params/{path}/{name}", resize=bias_tables),
        *mlp(f"{key}.mlp", f"{path}/mlp"),
    ]


def _irpe(key: str, path: str) -> list[KeyRule]:
    """Rules of iRPE's tables; the cross method has two of each."""
    places = {"q": "rel_pos", "k": "rel_pos", "v": "rel_values"}
    return [
        KeyRule(
            f"{key}.rpe_{on}{of}.{table}", f"params/{path}/{place}/rpe_{on}{at}/{table}"
        )
        for on, place in places.items()
        for of, at in (("", ""), (".rp_rows", "/rp_rows"), (".rp_cols", "/rp_cols"))
        for table in ("lookup_table_weight", "lookup_table_bias")
    ]


_ATTN, _PATH = "blocks.{i}.attn", "blocks_{i}/attn"
ATTENTION = [
    *norm(f"{_ATTN}.norm", f"{_PATH}/norm"),
    KeyRule(f"{_ATTN}.q_bias", f"params/{_PATH}/q_bias", QKV_BIAS),
    KeyRule(f"{_ATTN}.v_bias", f"params/{_PATH}/v_bias", QKV_BIAS),
    *_projection(f"{_ATTN}.q_proj", f"{_PATH}/q_proj"),
    *_projection(f"{_ATTN}.k_proj", f"{_PATH}/k_proj"),
    *_projection(f"{_ATTN}.v_proj", f"{_PATH}/v_proj"),
    *_relative(f"{_ATTN}.rel_pos", f"{_PATH}/rel_pos"),
    *_relative("shared_rel_pos", "shared_rel_pos"),
    KeyRule("rope.freqs", "params/rope/freqs"),
    *_irpe(_ATTN, _PATH),
    KeyRule(f"{_ATTN}.gating_param", f"params/{_PATH}/gating_param"),
    *linear(f"{_ATTN}.pos_proj", f"{_PATH}/pos_proj"),
    *_projection(f"{_ATTN}.qk", f"{_PATH}/qk"),
    *_projection(f"{_ATTN}.v", f"{_PATH}/v"),
]
MLP = [
    *norm("blocks.{i}.mlp.norm", "blocks_{i}/mlp/norm"),
    *linear("blocks.{i}.mlp.fc1_g", "blocks_{i}/mlp/fc1_g"),
    *linear("blocks.{i}.mlp.fc1_x", "blocks_{i}/mlp/fc1_x"),
]
PARALLEL = [
    *norm("blocks.{i}.in_norm", "blocks_{i}/in_norm"),
    *linear("blocks.{i}.in_proj", "blocks_{i}/in_proj"),
    KeyRule("blocks.{i}.mlp_bias", "params/blocks_{i}/mlp_bias"),
    *norm("blocks.{i}.q_norm", "blocks_{i}/q_norm"),
    *norm("blocks.{i}.k_norm", "blocks_{i}/k_norm"),
    KeyRule(
        "blocks.{i}.attn_out_proj.weight",
        "params/blocks_{i}/attn_out_proj/kernel",
        PROJ,
    ),
    KeyRule("blocks.{i}.attn_out_proj.bias", "params/blocks_{i}/attn_out_proj/bias"),
    *linear("blocks.{i}.mlp_out_proj", "blocks_{i}/mlp_out_proj"),
    KeyRule("blocks.{i}.ls.gamma", "params/blocks_{i}/ls/gamma"),
]
POOL = [
    KeyRule("attn_pool.latent", "params/attn_pool/latent"),
    *_projection("attn_pool.q", "attn_pool/q"),
    *_projection("attn_pool.kv", "attn_pool/kv"),
    KeyRule("attn_pool.proj.weight", "params/attn_pool/proj/kernel", PROJ),
    KeyRule("attn_pool.proj.bias", "params/attn_pool/proj/bias"),
    *norm("attn_pool.norm", "attn_pool/norm"),
    *mlp("attn_pool.mlp", "attn_pool/mlp"),
]
# baaivision/EVA's names of these layers.
EVA_OFFICIAL = [
    *norm(f"{_ATTN}.inner_attn_ln", f"{_PATH}/norm"),
    *norm("blocks.{i}.mlp.ffn_ln", "blocks_{i}/mlp/norm"),
    *linear("blocks.{i}.mlp.w12", "blocks_{i}/mlp/fc1"),
    *linear("blocks.{i}.mlp.w1", "blocks_{i}/mlp/fc1_g"),
    *linear("blocks.{i}.mlp.w2", "blocks_{i}/mlp/fc1_x"),
    *linear("blocks.{i}.mlp.w3", "blocks_{i}/mlp/fc2"),
]
# BEiT stores its tables in the attention itself.
_TABLE = "relative_position_bias_table"
BEIT_TABLES = [
    KeyRule(
        f"{_ATTN}.{_TABLE}", f"params/{_PATH}/rel_pos/{_TABLE}", resize=bias_tables
    ),
    KeyRule(
        f"rel_pos_bias.{_TABLE}",
        f"params/shared_rel_pos/{_TABLE}",
        resize=bias_tables,
    ),
]
_VIT = {
    name: [*rules, *ATTENTION, *MLP, *PARALLEL, *POOL]
    for name, rules in vit_rules.DIALECTS.items()
}
VIT = KeyNames(
    _VIT | clip_rules.DIALECTS,
    elsewhere=clip_rules.TEXT_TOWER,
    converters=(augreg.to_timm, transformers_names.to_timm),
)
VIT_RELPOS = KeyNames(_VIT)
_EVA = [*vit_rules.EMBEDDING, *vit_rules.PLAIN_BLOCK, *vit_rules.DEIT_SCALE]


def _first(rules: list[KeyRule]) -> list[KeyRule]:
    """Drops rules for a path that an earlier rule already covers."""
    return list({rule.path: rule for rule in reversed(rules)}.values())[::-1]


EVA = KeyNames(
    {
        "timm": [*_EVA, *vit_rules.TOP, *ATTENTION, *MLP, *POOL],
        "official": _first([*EVA_OFFICIAL, *_EVA, *vit_rules.TOP, *ATTENTION]),
    }
)
BEIT = KeyNames(
    {"timm": _first([*BEIT_TABLES, *_EVA, *vit_rules.TOP, *ATTENTION, *MLP])}
)
