"""A small ViT on scikit-learn's 1,797 real hand-written digits: the first thing to run.

Paper: Dosovitskiy et al., 2021, arXiv:2010.11929 (the model); Alpaydin & Kaynak, 1998
(the digits, UCI).
Command: python -m vit_jax_tricks.main --config=configs/digits.py
Expected: at least 98.5 % test accuracy; the README gives the mean of three seeds.
Wall time: a minute and a half of training on two CPU cores.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: epochs."""
    args = common.parse_arg(arg, epochs=100.0)
    c = common.get_config()
    c.name = "digits"
    c.epochs = args.epochs
    c.batch_size = 64
    c.dtype = "float32"
    c.model = ml_collections.ConfigDict(
        dict(
            name="vit_tiny_patch16_224",
            patch_size=2,  # 16 tokens of an 8x8 image
            embed_dim=64,
            depth=6,
            num_heads=4,
            global_pool="avg",
            drop_path_rate=0.1,
        )
    )
    c.data.name = "digits"
    c.augment.degrees = 15.0
    c.augment.translate = 0.125  # one pixel of eight
    c.augment.scale = (0.85, 1.15)
    c.augment.mixup = 0.2
    c.loss.classification.smoothing = 0.1
    c.optimizer.name = "muon"  # AdamW is far behind after the same epochs
    c.schedule.lr = 1e-2
    c.schedule.warmup_epochs = 5.0
    c.optimizer.weight_decay = 0.1
    c.optimizer.grad_clip = 1.0
    c.ema.decay = 0.99
    c.eval.epochs = 20.0
    c.eval.batch_size = 360
    return c.lock()
