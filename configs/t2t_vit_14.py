"""T2T-ViT-14 on ImageNet-1k, from scratch.

Paper: Yuan et al., 2021, arXiv:2101.11986, and the official README: 81.5 % top-1,
  21.5 M parameters.
Command: python -m vit_jax_tricks.main --config=configs/t2t_vit_14.py
  on other data: --config=configs/t2t_vit_14.py:data=digit_scenes,epochs=5
Expected: 81.5 % top-1 with this recipe (the official one); not run here.
Wall time: 310 epochs; not run here.
"""

import ml_collections

from configs import imagenet_common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data, epochs (the last 31st at the lowest rate), batch_size."""
    c, _ = imagenet_common.timm_recipe(
        "t2t_vit_14", "t2t_vit_14", arg, batch_size=512, lr=5e-4, warmup=10.0
    )
    c.augment.mixup = 0.8
    c.augment.cutmix = 1.0
    c.ema.decay = 0.99996
    return c.lock()
