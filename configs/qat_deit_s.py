"""Quantisation-aware fine-tuning: INT8 DeiT-S, or any trained model, from a float run.

Paper: Jacob et al., 2017, arXiv:1712.05877; Esser et al., 2019, arXiv:1902.08153 (for
  learned steps). A tenth of the epochs at 1 % of the rate follows NVIDIA's guide of
  pytorch-quantization; distillation from the float model follows FasterTransformer.
Command: python -m vit_jax_tricks.main
  --config=configs/qat_deit_s.py:init=runs/deit_s --workdir=runs/deit_s_int8
  any other run, of any model: --config=configs/qat_deit_s.py:init=WORKDIR
  4-bit weights: --config=configs/qat_deit_s.py:init=WORKDIR,bits=4
Expected: 0.3 points below float at 8 bits (published for DeiT-S: -0.1 to
  +0.3, I-ViT); not run here on ImageNet.
Wall time: 10 epochs; not run here.
"""

import json
from pathlib import Path
from typing import Any

import ml_collections

from configs import common, deit_common
from vit_jax_tricks import config, paths
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.registry import lookup


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: init (a workdir), bits (of weights, 8 or 4), epochs, lr, distil.

    Model, data, batch and optimiser are those of the run in `init`. Without it, DeiT-S
    trains on ImageNet from random weights. lr=0 means 1 % of the run's rate. distil is
    the distillation weight; the label loss has a weight of 1 - distil.
    """
    args = common.parse_arg(arg, init="", bits=8, epochs=10.0, lr=0.0, distil=0.9)
    if args.bits not in (4, 8):
        raise UserError(f"bits={args.bits}: expected 8 or 4.")
    if not 0 <= args.distil <= 1:
        raise UserError(f"distil={args.distil}: expected 0 to 1.")
    init = str(paths.absolute(args.init, "init=")) if args.init else ""
    if init:
        c = config.of_run(init)
    else:
        c = deit_common.get_recipe("deit_s", "deit_small_patch16_224", "")
    c.unlock()
    c.name = f"{c.name}_w{args.bits}a8"
    c.steps = None
    c.epochs = args.epochs
    c.init = init or None
    c.resume = "auto"

    defaults = common.get_config()
    scale = c.batch_size / c.schedule.lr_per if c.schedule.lr_per else 1.0
    lr = args.lr or 0.01 * scale * c.schedule.lr
    c.schedule = defaults.schedule
    c.schedule.name = "cosine_optax"
    c.schedule.lr = lr
    c.schedule.min_lr = 0.01 * lr
    c.schedule.warmup_epochs = 0.0

    # Mild augmentation: only small geometric changes remain.
    c.augment.auto_augment = "none"
    for key in ("erasing", "mixup", "cutmix"):
        c.augment[key] = 0.0
    c.data.repeats = 1
    for key, off in _stochastic(init, c.model.name).items():
        c.model[key] = off

    c.teacher = defaults.teacher
    loss = c.loss.get("classification", defaults.loss.classification)
    c.loss = ml_collections.ConfigDict(dict(classification=loss))
    if init and args.distil:
        c.teacher.sources = (init,)
        c.loss.classification.weight = 1 - args.distil
        c.loss.classification.dist_weight = 0.0
        c.loss.distillation = dict(name="soft", weight=args.distil)

    c.quant.weights = f"int{args.bits}_narrow"
    c.quant.activations = "int8"
    if args.bits < 8:
        c.quant.weight_observer = "mse"
        c.quant.learned = True
    return c.lock()


def _stochastic(init: str, name: str) -> dict[str, Any]:
    """Returns the model's stochastic regularisers, with the values that stop them."""
    if not init:
        return {"drop_path_rate": 0.0}
    try:
        spec = json.loads((Path(init) / "model.json").read_text())
        fields = spec["fields"]
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"{init} holds no readable model.json.") from error
    if spec.get("quant"):
        raise UserError(f"init={init} is quantised; give the float run before it.")
    every = lookup(name).family.stochastic
    return {field: type(fields[field])() for field in every if fields.get(field)}
