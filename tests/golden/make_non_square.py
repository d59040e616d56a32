"""Writes tests/golden/non_square/logits.npz: small models of non-square images.

python tests/golden/make_non_square.py CLONES, with torch 2.13, timm 1.0.31, clones of
zihangJiang/TokenLabeling 9dbfd59 and yitu-opensource/T2T-ViT 0f63dc9 in the folder
CLONES. Weights by name as in models_small; float64 logits of two images alone, by case,
and the state's rows in the manifest.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

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
    ("lvvit_s", (32, 128), {**SMALL, "mlp_ratio": 3.0}),
    ("t2t_vit_14", (64, 144), {**SMALL, "token_dim": 16, "mlp_ratio": 3.0}),
    ("t2t_vit_t_14", (32, 48), {**SMALL, "token_dim": 16, "mlp_ratio": 3.0}),
]


def module(folder, package, names, change=str):
    """The last module of an official program; timm's moved modules stand in."""
    layers = timm.layers
    layers.load_pretrained = layers.register_model = lambda *_, **__: None
    layers.register_model = lambda function: function
    for name in ("helpers", "registry", "layers"):
        sys.modules[f"timm.models.{name}"] = layers
    parent = sys.modules[package] = types.ModuleType(package)
    parent.__path__ = []
    for name in names:
        path = Path(sys.argv[1]) / folder / f"{name}.py"
        spec = importlib.util.spec_from_loader(f"{package}.{name}", None)
        inner = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        exec(change(path.read_text()), inner.__dict__)
    return inner


def lv_vit(img_size, **kwargs):
    """The official LV-ViT: what `lvvit_s` sets beside its sizes."""
    official = module("TokenLabeling/tlt/models", "tlt", ["layers", "lvvit"])
    return official.LV_ViT(
        img_size=img_size, p_emb="4_2", skip_lam=2.0, return_dense=True, **kwargs
    )


def t2t_vit(img_size, tokens_type, **kwargs):
    """The official T2T-ViT with the sides of its maps, which it takes for squares."""
    h, w = img_size
    root = "int(np.sqrt(new_HW)), int(np.sqrt(new_HW))"

    def change(text):
        for n in (4, 8):
            text = text.replace(root, f"{h // n}, {w // n}", 1)
        count = "(img_size // (4 * 2 * 2)) * (img_size // (4 * 2 * 2))"
        text = text.replace(".float()", "")  # to stay in float64
        return text.replace(count, f"{h // 16 * (w // 16)}")

    names = ["transformer_block", "token_transformer", "token_performer", "t2t_vit"]
    official = module("T2T-ViT/models", "t2t", names, change)
    return official.T2T_ViT(img_size, tokens_type=tokens_type, **kwargs)


def sinusoids(n, d):
    """[1, n, d]: sines and cosines in turn of the position by 10000^(-2i/d)."""
    angles = np.arange(n)[:, None] / 10000 ** (2 * (np.arange(d) // 2) / d)
    table = np.where(np.arange(d) % 2, np.cos(angles), np.sin(angles))
    return torch.tensor(table[None]).float()


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
        elif name.startswith("lvvit"):
            model = lv_vit(**fitting).eval()
        elif name.startswith("t2t"):
            kind = "transformer" if "_t_" in name else "performer"
            model = t2t_vit(tokens_type=kind, **fitting).eval()
        else:
            model = timm.create_model(name, **fitting).eval()
        if name.startswith("convit"):
            offsets = rel_indices(model.patch_embed.grid_size)
            GPSA.get_rel_indices = lambda self, n, offsets=offsets: offsets
        rows = synthesise(model)
        if name.startswith("t2t"):  # its table is computed, not learned
            model.pos_embed.data = sinusoids(*model.pos_embed.shape[1:])
            rows = [
                [*r[:3], "keep", *r[4:]] if r[0] == "pos_embed" else r for r in rows
            ]
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
    path = GOLDEN / "non_square" / "logits.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, manifest=json.dumps(manifest), **arrays)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
