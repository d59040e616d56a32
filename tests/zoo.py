"""Every model and its reference files: the shared tests run over these lists."""

import vit_goldens


FAMILIES = [vit_goldens]
SMALL = [case for family in FAMILIES for case in family.SMALL]
FULL = [case for family in FAMILIES for case in family.FULL]
