"""The base shared by all ImageNet-1k recipes; not an experiment itself.

`start` has the flips, RandAugment and random erasing of DeiT, Swin, T2T-ViT, LV-ViT and
ConViT.

`timm_recipe` follows timm's training loop, which T2T-ViT and LV-ViT use: AdamW for 300
epochs and 10 more at the lowest rate. The rate is set once per epoch.
"""

import ml_collections

from configs import common


def start(
    name: str, model: str, arg: str, *, crop_pct: float = 0.875, **args: str | float
) -> tuple[ml_collections.ConfigDict, ml_collections.ConfigDict]:
    """Returns a config and its arguments: data, epochs, batch_size and further `args`.

    `crop_pct` is the share of the short side kept in evaluation, for photographs.
    """
    args = common.parse_arg(arg, data="tfds:imagenet2012", **args)
    c = common.get_config()
    c.name = name
    c.epochs = args.epochs
    c.batch_size = args.batch_size
    c.model = ml_collections.ConfigDict(dict(name=model, drop_path_rate=0.1))
    scenes = args.data == "digit_scenes"
    c.data.name = "digit_scenes/224" if scenes else args.data
    if not scenes:
        c.data.resize = "pil_bicubic"
        c.data.crop_pct = crop_pct
    if args.data.startswith("tfds:imagenet2012"):
        c.data.test_split = "validation"
    c.augment.flip = not scenes  # a mirrored digit is a different shape
    # With RandAugment, the official commands' colour jitter has no effect.
    c.augment.auto_augment = "rand-m9-mstd0.5-inc1"
    c.augment.erasing = 0.25
    c.loss.classification.smoothing = 0.1
    c.optimizer.name = "adamw"
    c.optimizer.weight_decay = 0.05
    c.schedule.min_lr = 1e-5
    c.schedule.warmup_lr = 1e-6
    c.eval.epochs = 1.0
    c.eval.batch_size = args.batch_size
    return c, args


def timm_recipe(
    name: str,
    model: str,
    arg: str,
    *,
    batch_size: int,
    lr: float,
    warmup: float,
    **more: str,
) -> tuple[ml_collections.ConfigDict, ml_collections.ConfigDict]:
    """Returns a config with 300 + 10 epochs, and its arguments.

    `lr` is the rate for `batch_size`. Arguments: data, epochs (310, the last 31st of
    them for the cool-down), batch_size (the rate scales with it), and `more`.
    """
    c, args = start(
        name, model, arg, crop_pct=0.9, epochs=310.0, batch_size=batch_size, **more
    )
    c.schedule.name = "cosine_timm"
    c.schedule.per_epoch = True
    c.schedule.lr = lr
    c.schedule.lr_per = batch_size
    c.schedule.warmup_epochs = min(warmup, args.epochs / 4)
    c.schedule.cooldown_epochs = args.epochs / 31
    c.augment.mix_first = True  # as in timm's prefetcher
    return c, args
