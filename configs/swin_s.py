"""Swin-S on ImageNet-1k, from scratch.

Paper: Liu et al., 2021, arXiv:2103.14030, and the official README: 83.2 % top-1,
  49.6 M parameters.
Command: python -m vit_jax_tricks.main --config=configs/swin_s.py
  on other data: --config=configs/swin_s.py:data=digit_scenes,epochs=5
Expected: 83.2 % top-1 with this recipe (the official one); not run here.
Wall time: 300 epochs; not run here.
"""

import ml_collections

from configs import swin_common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data, epochs, batch_size."""
    return swin_common.get_recipe("swin_s", "swin_small_patch4_window7_224", 0.3, arg)
