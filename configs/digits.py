"""A small ViT on scikit-learn's 1,797 real hand-written digits: the first thing to run.

Paper: Dosovitskiy et al., 2021, arXiv:2010.11929 (the model); Alpaydin & Kaynak, 1998
(the digits, UCI).
Command: python -m vit_jax_tricks.main --config=configs/digits.py
Expected: TODO
Wall time: TODO
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: epochs."""
    args = common.parse_arg(arg, epochs=200.0)
    c = common.get_config()
    c.name = "digits"
    c.epochs = args.epochs
    c.batch_size = 128
    c.dtype = "float32"
    c.model = ml_collections.ConfigDict(
        dict(
            name="vit_tiny_patch16_224",
            patch_size=2,  # 16 tokens of an 8x8 image
            embed_dim=64,
            depth=4,
            num_heads=4,
            drop_path_rate=0.1,
        )
    )
    c.data.name = "digits"
    c.augment.degrees = 15.0
    c.augment.translate = 0.125  # one pixel of eight
    c.augment.scale = (0.85, 1.15)
    c.augment.mixup = 0.2
    c.loss.classification.smoothing = 0.1
    c.schedule.lr = 2e-3
    c.schedule.warmup_epochs = 10.0
    c.optimizer.weight_decay = 0.1
    c.optimizer.grad_clip = 1.0
    c.ema.decay = 0.99
    c.eval.epochs = 20.0
    c.eval.batch_size = 360
    return c.lock()
