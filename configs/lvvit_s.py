"""LV-ViT-S on ImageNet-1k, from scratch.

Paper: Jiang et al., 2021, arXiv:2104.10858, and the official README: 83.3 % top-1,
  26.2 M parameters.
Command: python -m vit_jax_tricks.main --config=configs/lvvit_s.py:pack=runs/labels
  on other data: --config=configs/lvvit_s.py:data=digit_scenes,epochs=5
Expected: 83.3 % top-1 with token labels from an NFNet-F6; not run here. Labels come
  from a pack by `python -m vit_jax_tricks.relabel`, or from a teacher in the step
  (teacher=runs/teacher). Without either, every token learns the label of its image,
  as in the official code.
Wall time: 310 epochs; not run here.
"""

import ml_collections

from configs import imagenet_common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data, epochs, batch_size, pack, teacher.

    The last 31st of the epochs runs at the lowest rate.
    """
    c, args = imagenet_common.timm_recipe(
        "lvvit_s",
        "lvvit_s",
        arg,
        batch_size=1024,
        lr=1.6e-3,
        warmup=5.0,
        pack="",
        teacher="",
    )
    c.ema.decay = 0.99992
    if not (args.pack or args.teacher):
        return c.lock()
    if args.pack:
        c.teacher.pack = args.pack
    if args.teacher:
        c.teacher.sources = (args.teacher,)
    c.teacher.smoothing = 0.1
    c.loss.classification.weight = 0.0  # the class head also learns soft labels
    with c.unlocked():
        c.loss.token_labels = ml_collections.ConfigDict({"name": "softmax"})
    return c.lock()
