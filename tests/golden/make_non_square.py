"""Writes tests/golden/non_square/timm.npz: small timm models of images of other sides.

python tests/golden/make_non_square.py, with torch 2.13 and timm 1.0.31. Weights by name
as in models_small; float64 logits of two images alone, by case, and the state's rows in
the manifest.
"""

import json

import numpy as np
import torch
from make_timm import GOLDEN, base_normal, synthesise, timm
from timm.models.convit import GPSA
from timm.models.volo import VOLO


timm.layers.set_fused_attn(False)
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
STAGES = {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4]}
STEM = {
    "layers": [1, 1, 1],
    "embed_dims": [16, 32, 32],
    "num_heads": [2, 4, 4],
    "downsamples": [True, False, False],
    "outlook_attention": [True, False, False],
    "stem_hidden_dim": 8,
}
# Name, height and width, options that both programs take.
CASES = [
    ("vit_tiny_patch16_224", (64, 144), SMALL),
    ("deit_tiny_distilled_patch16_224", (32, 128), SMALL),
    ("deit3_small_patch16_224", (144, 64), SMALL),
    ("vit_small_patch16_18x2_224", (32, 48), SMALL),
    ("vit_base_patch16_siglip_224", (48, 32), SMALL),
    ("vit_base_patch16_siglip_gap_224", (64, 144), SMALL),
    ("vit_small_patch14_reg4_dinov2", (28, 112), SMALL),
    ("vit_base_patch16_clip_quickgelu_224", (144, 64), SMALL),
    ("vit_base_patch16_xp_224", (32, 48), SMALL),
    ("vit_relpos_base_patch16_224", (32, 80), SMALL),
    ("vit_relpos_small_patch16_rpn_224", (48, 32), SMALL),
    ("vit_srelpos_small_patch16_224", (32, 128), SMALL),
    ("eva02_tiny_patch14_224", (112, 168), SMALL),
    ("eva02_base_patch14_448", (168, 112), SMALL),
    ("eva02_base_patch16_clip_224", (32, 128), SMALL),
    ("vit_small_patch16_rope_224", (96, 64), SMALL),
    ("vit_small_patch16_rope_mixed_224", (64, 96), SMALL),
    ("vit_small_patch16_rope_mixed_ape_224", (64, 144), SMALL),
    ("vit_small_patch16_dinov3_qkvb", (32, 128), SMALL),
    ("beit_base_patch16_224", (32, 80), SMALL),
    ("beitv2_base_patch16_224", (80, 16), SMALL),
    ("cait_xxs24_224", (64, 144), SMALL),
    ("convit_tiny", (32, 128), {**SMALL, "local_up_to_layer": 1}),
    ("swin_tiny_patch4_window7_224", (32, 64), {**STAGES, "window_size": [2, 4]}),
    ("swin_tiny_patch4_window7_224", (64, 128), {**STAGES, "window_size": 4}),
    ("swinv2_tiny_window8_256", (128, 256), {**STAGES, "window_size": 8}),
    ("volo_d1_224", (64, 144), STEM),
    ("coatnet_0_224", (64, 96), {"embed_dim": [16, 16, 32, 32], "depths": [1] * 4}),
    ("coatnet_rmlp_1_rw_224", (96, 64), {"depths": [1] * 4}),
]


def rel_indices(grid):
    """ConViT's offsets (x, y, squared distance); timm's take any grid for a square."""
    y, x = np.indices(grid).reshape(2, -1)
    dx, dy = (c[None, :] - c[:, None] for c in (x, y))
    return torch.tensor(np.stack([dx, dy, dx**2 + dy**2], -1)[None]).double()


def main():
    cases, arrays = {}, {}
    for name, size, options in CASES:
        case = f"{name}:{size[0]}x{size[1]}"
        kwargs = {"img_size": list(size), "num_classes": 10, **options}
        fitting = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
        if name.startswith("volo"):  # timm's function fixes the layers
            model = VOLO(**fitting).eval()
        else:
            model = timm.create_model(name, **fitting).eval()
        if name.startswith("convit"):
            offsets = rel_indices(model.patch_embed.grid_size)
            GPSA.get_rel_indices = lambda self, n, offsets=offsets: offsets
        rows = synthesise(model)
        shape = [2, 3, *size]
        x = torch.tensor(base_normal(f"input:{case}", shape))
        model = model.double()
        if hasattr(getattr(model, "rope", None), "periods"):
            model.rope.float()  # as timm computes the table of DINOv3's angles
        with torch.no_grad():
            y = model(x.double())
        arrays[case] = y.numpy()
        cases[case] = {
            "name": name,
            "kwargs": kwargs,
            "input_name": case,
            "input_shape": shape,
            "state": rows,
        }
    manifest = {
        "reference": {"package": "timm", "version": timm.__version__},
        "torch": torch.__version__,
        "cases": cases,
    }
    path = GOLDEN / "non_square" / "timm.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, manifest=json.dumps(manifest), **arrays)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
