"""The recipe shared by the DeiT configs; not an experiment itself.

Official values: Touvron et al., 2021, arXiv:2012.12877, and facebookresearch/deit
`main.py`. `recipe=source` is the project's own variant: learning rate 5e-4 at batch
1024 (half of the official 1e-3), 10 epochs of linear warm-up, and a smooth cosine.
"""

import ml_collections

from configs import imagenet_common
from vit_jax_tricks.errors import UserError


def get_recipe(
    name: str, model: str, arg: str, *, distillation: dict | None = None
) -> ml_collections.ConfigDict:
    """DeiT's 300-epoch recipe for `model`; arguments: data, recipe, epochs, batch_size.

    `distillation` holds the keys of that loss term and adds the argument teacher, a
    workdir or NAME@WEIGHTS. With a teacher, the weights of the label and the teacher
    are one half each.
    """
    more = {} if distillation is None else {"teacher": ""}
    c, args = imagenet_common.start(
        name, model, arg, recipe="official", epochs=300.0, batch_size=1024, **more
    )
    if distillation is not None and args.teacher:
        c.teacher.sources = (args.teacher,)
        with c.unlocked():
            c.loss.distillation = ml_collections.ConfigDict(distillation)
            c.loss.distillation.weight = 0.5
        c.loss.classification.weight = 0.5
        c.loss.classification.dist_weight = 0.0
    if args.recipe not in ("official", "source"):
        raise UserError(f'recipe="{args.recipe}": expected "official" or "source".')
    c.data.repeats = 3
    c.augment.mixup = 0.8
    c.augment.cutmix = 1.0
    c.schedule.lr = 5e-4
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
    return c.lock()
