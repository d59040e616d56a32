"""Maps each family to its rules.

The rules of a family are in `FAMILY_rules.py`: `DIALECTS`, with a list of rules for
each way of naming the parameters.
"""

from collections.abc import Collection

from vit_jax_tricks.pretrained import (
    cait_rules,
    clip_rules,
    coatnet_rules,
    convit_rules,
    lv_vit_rules,
    relatives_rules,
    swin_rules,
    t2t_vit_rules,
    volo_rules,
)
from vit_jax_tricks.pretrained.rules import KeyRule, find_path


DIALECTS: dict[str, dict[str, list[KeyRule]]] = {
    "CaiT": cait_rules.DIALECTS,
    "CoAtNet": coatnet_rules.DIALECTS,
    "ConViT": convit_rules.DIALECTS,
    "SwinTransformer": swin_rules.DIALECTS,
    "SwinTransformerV2": swin_rules.DIALECTS_V2,
    "T2TViT": t2t_vit_rules.DIALECTS,
    "LVViT": lv_vit_rules.DIALECTS,
    "VisionTransformer": relatives_rules.DIALECTS_VIT | clip_rules.DIALECTS,
    "VisionTransformerRelPos": relatives_rules.DIALECTS_VIT,
    "Eva": relatives_rules.DIALECTS_EVA,
    "Beit": relatives_rules.DIALECTS_BEIT,
    "VOLO": volo_rules.DIALECTS,
}
# Entries that a model computes; functions of (source, array, model) check them.
CONSTANTS = {"T2TViT": t2t_vit_rules.CONSTANTS}
# Entries of a reference file that a model does not need.
IGNORED = (
    r"(.*\.)?(num_batches_tracked|relative_position_index|relative_coords_table"
    r"|attn_mask)"
)
# Entries of another part of the reference's model: reported, never rejected.
ELSEWHERE = {"VisionTransformer": clip_rules.TEXT_TOWER}


def dialect_of(
    family: str, keys: Collection[str], paths: Collection[str]
) -> list[KeyRule]:
    """The rules that recognise most of a file's keys as parameters of a model.

    The same key may have two meanings in two dialects, so a file is read in only one.
    `paths` are the model's parameter paths.
    """

    def known(rules: list[KeyRule]) -> int:
        found = (find_path(key, rules) for key in keys)
        return sum(match is not None and match[0] in paths for match in found)

    return max(DIALECTS[family].values(), key=known)
