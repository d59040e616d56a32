"""Swin-T on ImageNet-1k, from scratch.

Paper: Liu et al., 2021, arXiv:2103.14030, and the official README: 81.2 % top-1,
  28.3 M parameters.
Command: python -m vit_jax_tricks.main --config=configs/swin_t.py
  on other data: --config=configs/swin_t.py:data=digit_scenes,epochs=5
Expected: 81.2 % top-1 with this recipe (the official one); not run here.
Wall time: 300 epochs; not run here.
"""

import ml_collections

from configs import swin_common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data, epochs, batch_size."""
    return swin_common.get_recipe("swin_t", "swin_tiny_patch4_window7_224", 0.2, arg)
