"""A small member of every family under one recipe: digit_scenes at 64x64, 10 epochs.

Paper: each family's model file names its own; the first is Dosovitskiy et al., 2021,
  arXiv:2010.11929. The optimiser is Muon (Jordan et al., 2024).
Command: python -m vit_jax_tricks.main --config=configs/families.py:family=swin
Expected: 93 to 98 % test accuracy (docs/results.md); chance is 10 %.
Wall time: not measured on an idle machine.
"""

import ml_collections

from configs import common
from vit_jax_tricks.errors import UserError, nearest


SMALL = dict(patch_size=8, depth=4, drop_path_rate=0.0)  # 64 tokens of 64x64
STAGES = dict(patch_size=4, window_size=4, depths=(2, 2), drop_path_rate=0.0)
FAMILIES = {
    "vit": dict(
        name="vit_tiny_patch16_224",
        embed_dim=96,
        num_heads=3,
        global_pool="avg",
        **SMALL,
    ),
    "swin": dict(
        name="swin_tiny_patch4_window7_224", embed_dim=48, num_heads=(2, 4), **STAGES
    ),
    "swin_v2": dict(
        name="swinv2_tiny_window8_256", embed_dim=48, num_heads=(2, 4), **STAGES
    ),
    "t2t_vit": dict(  # its stem gives 16 tokens
        name="t2t_vit_7", embed_dim=192, num_heads=3, token_dim=32, depth=5
    ),
    "convit": dict(name="convit_tiny", embed_dim=24, local_up_to_layer=3, **SMALL),
    "coatnet": dict(
        name="coatnet_0_224",
        stem_width=16,
        embed_dim=(16, 48, 96),
        depths=(1, 1, 2),
        block_type=("C", "C", "T"),
        drop_path_rate=0.0,
    ),
    "lv_vit": dict(  # its convolutional stem alone would cost 77 MMACs
        name="lvvit_s",
        p_emb=1,
        embed_dim=96,
        num_heads=3,
        mix_token=False,
        return_dense=False,
        **SMALL,
    ),
    "cait": dict(name="cait_xxs24_224", embed_dim=96, init_values=0.1, **SMALL),
    "volo": dict(
        name="volo_d1_224",
        patch_size=4,
        stem_hidden_dim=16,
        layers=(1, 3),
        embed_dims=(48, 96),
        num_heads=(2, 3),
        downsamples=(True, False),
        outlook_attention=(True, False),
        use_aux_head=False,
        drop_path_rate=0.0,
    ),
    "eva02": dict(  # base has a norm inside its SwiGLU, tiny does not
        name="eva02_base_patch14_224", embed_dim=96, num_heads=3, **SMALL
    ),
    "clip": dict(name="vit_base_patch32_clip_224", embed_dim=96, num_heads=3, **SMALL),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: family, epochs."""
    args = common.parse_arg(arg, family="vit", epochs=10.0)
    if args.family not in FAMILIES:
        hint = nearest(args.family, FAMILIES)
        raise UserError(f'family="{args.family}": unknown.{hint}')
    c = common.get_config()
    c.name = f"families_{args.family}"
    c.epochs = args.epochs
    c.batch_size = 64
    c.model = ml_collections.ConfigDict(FAMILIES[args.family])
    c.data.name = "digit_scenes/64"
    c.optimizer.name = "muon"
    c.optimizer.weight_decay = 0.1
    c.optimizer.grad_clip = 1.0
    c.schedule.lr = 1e-2
    c.schedule.warmup_epochs = 1.0
    c.eval.epochs = 1.0
    return c.lock()
