"""Every model and its reference files: the shared tests run over these lists."""

import swin_goldens
import vit_goldens
from model_goldens import Case

from vit_jax_tricks.models.registry import lookup


FAMILIES = [swin_goldens, vit_goldens]
SMALL: list[Case] = [case for family in FAMILIES for case in family.SMALL]
FULL: list[Case] = [case for family in FAMILIES for case in family.FULL]
# The first small case of each family of modules.
ONE_EACH = list({lookup(c.name).family: c for c in reversed(SMALL)}.values())
