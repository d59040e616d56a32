"""Which rules belong to which family."""

from vit_jax_tricks.pretrained import vit_rules
from vit_jax_tricks.pretrained.rules import Rule


DIALECTS: dict[str, dict[str, list[Rule]]] = {
    "VisionTransformer": vit_rules.DIALECTS,
}
# Entries of a reference file that carry no information for a model.
IGNORED = r"(.*\.)?num_batches_tracked"


def all_rules(family: str) -> list[Rule]:
    """The rules of every dialect of a family; key names never conflict."""
    return [rule for rules in DIALECTS[family].values() for rule in rules]
