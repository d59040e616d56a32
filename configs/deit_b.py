"""DeiT-B on ImageNet-1k, from scratch.

Paper: Touvron et al., 2021, arXiv:2012.12877, Table 5: 81.8 % top-1, 86.6 M parameters.
Command: python -m vit_jax_tricks.main --config=configs/deit_b.py
  on other data: --config=configs/deit_b.py:data=digit_scenes,epochs=5
  the project's own recipe: --config=configs/deit_b.py:recipe=source
Expected: 81.8 % top-1 with this recipe (from the paper); not run here.
Wall time: 300 epochs; not run here.
"""

import ml_collections

from configs import deit_common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data, recipe (official or source), epochs, batch_size."""
    return deit_common.get_recipe("deit_b", "deit_base_patch16_224", arg)
