"""ConViT-S on ImageNet-1k, from scratch: DeiT's recipe without EMA.

Paper: d'Ascoli et al., 2021, arXiv:2103.10697, Table 1: 81.3 % top-1, 27.8 M
  parameters.
Command: python -m vit_jax_tricks.main --config=configs/convit_s.py
  on other data: --config=configs/convit_s.py:data=digit_scenes,epochs=5
  the project's own recipe: --config=configs/convit_s.py:recipe=source
Expected: 81.3 % top-1 with this recipe (from the paper); not run here.
Wall time: 300 epochs; not run here.
"""

import ml_collections

from configs import deit_common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data, recipe (official or source), epochs, batch_size."""
    c = deit_common.get_recipe("convit_s", "convit_small", arg)
    with c.unlocked():
        c.ema.decay = None  # `--model-ema` is off in facebookresearch/convit main.py
    return c
