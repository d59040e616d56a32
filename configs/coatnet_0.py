"""CoAtNet-0 on ImageNet-1k, from scratch.

Paper: Dai et al., 2021, arXiv:2106.04803, Tables 4 and 10: 81.6 % top-1, 25 M
  parameters. The network is timm's, with the stride in the depthwise convolution.
Command: python -m vit_jax_tricks.main --config=configs/coatnet_0.py
  on other data: --config=configs/coatnet_0.py:data=digit_scenes,epochs=5
Expected: 81.6 % top-1 with this recipe (from the paper); not run here.
Wall time: 300 epochs; not run here.
"""

import ml_collections

from configs import imagenet_common


WARMUP = 10_000 * 4096 / 1_281_167  # epochs: 10,000 steps of 4096 images


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data, epochs, batch_size (the learning rate scales with it)."""
    c, args = imagenet_common.start(
        "coatnet_0", "coatnet_0_224", arg, crop_pct=0.95, epochs=300.0, batch_size=4096
    )
    c.model.drop_path_rate = 0.2
    c.augment.auto_augment = "rand-n2-m15-p1-mmax15"  # RandAugment (2, 15)
    c.augment.erasing = 0.0
    c.augment.mixup = 0.8
    c.optimizer.grad_clip = 1.0
    c.schedule.name = "cosine_optax"
    c.schedule.lr = 1e-3
    c.schedule.lr_per = 4096
    c.schedule.warmup_lr = 0.0
    c.schedule.warmup_epochs = min(WARMUP, args.epochs / 4)
    return c.lock()
