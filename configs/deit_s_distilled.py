"""DeiT-S with a distillation token on ImageNet-1k, from scratch.

Paper: Touvron et al., 2021, arXiv:2012.12877, Table 5: 81.2 % top-1, 22.4 M parameters,
  with a RegNetY-16GF teacher.
Command: python -m vit_jax_tricks.main
  --config=configs/deit_s_distilled.py:teacher=runs/teacher
Expected: 81.2 % top-1 with that teacher; not run here. Without a teacher both heads
  learn the label, as if a teacher were always right.
Wall time: 300 epochs; not run here.
"""

import ml_collections

from configs import deit_common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data, recipe (official or source), epochs, batch_size, teacher."""
    return deit_common.get_recipe(
        "deit_s_distilled",
        "deit_small_distilled_patch16_224",
        arg,
        distillation={"name": "hard"},
    )
