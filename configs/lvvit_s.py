"""LV-ViT-S on ImageNet-1k, from scratch.

Paper: Jiang et al., 2021, arXiv:2104.10858, and the official README: 83.3 % top-1,
  26.2 M parameters.
Command: python -m vit_jax_tricks.main --config=configs/lvvit_s.py
  on other data: --config=configs/lvvit_s.py:data=digit_scenes,epochs=5
Expected: 83.3 % top-1 with token labels from an NFNet-F6; not run here. Without label
  maps, as in this config, every token learns the label of its image, as in the official
  program.
Wall time: 310 epochs; not run here.
"""

import ml_collections

from configs import imagenet_common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data, epochs (the last 31st at the lowest rate), batch_size."""
    c = imagenet_common.timm_recipe(
        "lvvit_s", "lvvit_s", arg, batch_size=1024, lr=1.6e-3, warmup=5.0
    )
    c.ema.decay = 0.99992
    return c.lock()
