"""The recipe that the DeiT configs share: no experiment of its own.

Official values: Touvron et al., 2021, arXiv:2012.12877, and facebookresearch/deit
`main.py`. `recipe=source` is the project's own variant: learning rate 5e-4 at batch
1024 (half of the official 1e-3), 10 epochs of linear warm-up, a smooth cosine.
"""

import ml_collections

from configs import common
from vit_jax_tricks.errors import UserError


ARGS = {
    "data": "tfds:imagenet2012",  # or digit_scenes, folder:PATH, tfds:NAME
    "recipe": "official",
    "epochs": 300.0,
    "batch_size": 1024,
}


def get_recipe(name: str, model: str, arg: str) -> ml_collections.ConfigDict:
    """DeiT's 300 epochs for a `model`; arguments: data, recipe, epochs, batch_size."""
    args = common.parse_arg(arg, **ARGS)
    if args.recipe not in ("official", "source"):
        raise UserError(f'recipe="{args.recipe}": expected "official" or "source".')
    c = common.get_config()
    c.name = name
    c.epochs = args.epochs
    c.batch_size = args.batch_size
    c.model = ml_collections.ConfigDict(dict(name=model, drop_path_rate=0.1))
    scenes = args.data == "digit_scenes"
    c.data.name = "digit_scenes/224" if scenes else args.data
    if not scenes:
        c.data.resize = "pil_bicubic"
    if args.data.startswith("tfds:imagenet2012"):
        c.data.test_split = "validation"
    c.augment.flip = not scenes  # a mirrored digit is another shape
    c.augment.mixup = 0.8
    c.augment.cutmix = 1.0
    c.loss.classification.smoothing = 0.1
    c.optimizer.name = "adamw"
    c.optimizer.weight_decay = 0.05
    c.schedule.lr = 5e-4
    c.schedule.min_lr = 1e-5
    c.schedule.warmup_lr = 1e-6
    if args.recipe == "official":
        c.schedule.name = "cosine_timm"
        c.schedule.lr_per = 512  # 5e-4 x 1024 / 512 = 1e-3
        c.schedule.warmup_epochs = min(5.0, args.epochs / 4)  # 5 of 300
        c.schedule.per_epoch = True
        c.schedule.lag_epochs = 1
    else:
        c.schedule.name = "cosine_prefix"
        c.schedule.warmup_epochs = min(10.0, args.epochs / 4)  # 10 of 300
    c.ema.decay = 0.99996
    c.eval.epochs = 1.0
    c.eval.batch_size = args.batch_size
    return c.lock()
