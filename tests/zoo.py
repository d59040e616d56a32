"""Every model and its reference files: the shared tests run over these lists."""

import cait_goldens
import clip_goldens
import coatnet_goldens
import convit_goldens
import lvvit_goldens
import relatives_goldens
import swin_goldens
import t2t_goldens
import vit_goldens
import volo_goldens
from model_goldens import Case

from vit_jax_tricks.models.registry import lookup


FAMILIES = [
    cait_goldens,
    clip_goldens,
    coatnet_goldens,
    convit_goldens,
    swin_goldens,
    t2t_goldens,
    lvvit_goldens,
    vit_goldens,
    volo_goldens,
    relatives_goldens,
]
SMALL: list[Case] = [case for family in FAMILIES for case in family.SMALL]
FULL: list[Case] = [case for family in FAMILIES for case in family.FULL]
# All reference files that are checked; some families have a test of their own for one.
CHECKED = {case.golden for case in SMALL + FULL} | {
    golden for family in FAMILIES for golden in getattr(family, "CHECKED", ())
}
# The first small case of each family of modules.
ONE_EACH = list({lookup(c.name).family: c for c in reversed(SMALL)}.values())
