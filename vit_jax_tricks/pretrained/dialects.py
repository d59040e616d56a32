"""Which rules belong to which family.

A family's rules are `FAMILY_rules.py` here: `DIALECTS`, a list of rules for each way to
name the parameters. Key names of the dialects of one family never conflict.
"""

from vit_jax_tricks.pretrained import vit_rules
from vit_jax_tricks.pretrained.rules import Rule


DIALECTS: dict[str, dict[str, list[Rule]]] = {
    "VisionTransformer": vit_rules.DIALECTS,
}
# Entries of a reference file that carry no information for a model.
IGNORED = r"(.*\.)?num_batches_tracked"


def all_rules(family: str) -> list[Rule]:
    """The rules of every dialect of a family."""
    return [rule for rules in DIALECTS[family].values() for rule in rules]
