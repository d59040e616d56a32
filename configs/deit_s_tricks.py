"""DeiT-S with the project's own set of tricks on ImageNet-1k, from scratch.

Paper: DeiT, Touvron et al., 2021, arXiv:2012.12877 (79.9 % top-1 with its own recipe,
  22.1 M parameters); AutoAugment, Cubuk et al., 2019, arXiv:1805.09501; focal loss, Lin
  et al., 2017, arXiv:1708.02002; LayerScale, Touvron et al., 2021, arXiv:2103.17239.
Command: python -m vit_jax_tricks.main
  --config=configs/deit_s_tricks.py:teacher=runs/teacher
  on other data: --config=configs/deit_s_tricks.py:data=digit_scenes,epochs=5
Expected: not run here. Without a teacher, distillation is off.
Wall time: 300 epochs; not run here.
"""

import ml_collections

from configs import deit_common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data, epochs, batch_size, teacher."""
    arg = ",".join(filter(None, (arg, "recipe=source")))
    c = deit_common.get_recipe(
        "deit_s_tricks",
        "deit_small_patch16_224",
        arg,
        distillation={"name": "soft", "tau": 3.0},
    )
    with c.unlocked():
        c.model.drop_path_rate = 0.1
        c.model.attn_drop_rate = 0.1
        c.model.patch_drop_rate = 0.1
        c.model.init_values = 1e-5
        if c.data.name == "digit_scenes/224":
            c.augment.crop = "random_or_center"
        else:
            c.data.train_crop = "random_resized"
            c.data.crop_scale = (0.2, 1.0)
    c.augment.crop_scale = (0.2, 1.0)
    c.augment.auto_augment = "original"
    c.augment.color_jitter = 0.4
    c.augment.hue = 0.1
    c.augment.jitter_prob = 0.8
    c.augment.mix_prob = 0.5
    c.loss.classification.name = "smoothed_focal"  # 0.7 CE + 0.3 focal
    return c.lock()
