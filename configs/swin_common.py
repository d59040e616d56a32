"""The recipe shared by the Swin configs; not an experiment itself.

Official values: Liu et al., 2021, arXiv:2103.14030, and microsoft/Swin-Transformer
`config.py` and `main.py`. The learning rate, the initial warm-up rate and the lowest
rate are for a batch of 512 and scale with it. After the warm-up the rate follows a
cosine, updated every step.
"""

import ml_collections

from configs import imagenet_common


def get_recipe(
    name: str, model: str, drop_path_rate: float, arg: str
) -> ml_collections.ConfigDict:
    """Swin's 300-epoch recipe for `model`; arguments: data, epochs, batch_size."""
    c, args = imagenet_common.start(name, model, arg, epochs=300.0, batch_size=1024)
    c.model.drop_path_rate = drop_path_rate
    c.augment.mixup = 0.8
    c.augment.cutmix = 1.0
    c.optimizer.grad_clip = 5.0
    c.schedule.name = "cosine_prefix"
    c.schedule.lr = 5e-4
    c.schedule.lr_per = 512  # 5e-4 x 1024 / 512 = 1e-3
    c.schedule.warmup_lr = 5e-7 * args.batch_size / 512
    c.schedule.min_lr = 5e-6 * args.batch_size / 512
    c.schedule.warmup_epochs = min(20.0, args.epochs / 4)  # 20 of 300
    return c.lock()
