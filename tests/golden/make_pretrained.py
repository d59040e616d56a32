"""Computes tests/golden/pretrained/*.npz with timm and transformers.

    python -m venv ref && ref/bin/pip install torch==2.13.0 timm==1.0.31 transformers
    ref/bin/python tests/golden/make_pretrained.py

Weights and pictures are synthesised from names (tests/weight_files.py); only what the
reference programs make of them is stored, cut to a few channels.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch


# torchvision's Python parts without its compiled operators.
for operator in ("nms", "qnms"):
    schema = "(Tensor dets, Tensor scores, float threshold) -> Tensor"
    torch.library.define(f"torchvision::{operator}", schema)

import timm
import transformers
from PIL import Image
from safetensors.numpy import save_file


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import weight_files as files
from goldens import base_normal


TINY = "deit_tiny_patch16_224"
FITTED = {
    "img384_classes10": {"img_size": 384, "num_classes": 10},
    "img112x448": {"img_size": (112, 448)},
    "patch8": {"patch_size": 8},
    "patch32": {"patch_size": 32},
    "chans1": {"in_chans": 1},
    "chans5": {"in_chans": 5},
    "chans1_patch8": {"in_chans": 1, "patch_size": 8},
}
NPZ = {
    "augreg": {},
    "augreg_img24_chans1": {"img_size": 24, "in_chans": 1},
    "augreg_patch2": {"patch_size": 2},
    "augreg_classes3": {"num_classes": 3},
}
VIEWS = {
    "center_32_0.9": {"img_size": 32, "crop_pct": 0.9},
    "center_32_0.875": {"img_size": 32, "crop_pct": 0.875},
    "center_24x40_0.9": {"img_size": (24, 40), "crop_pct": 0.9},
    "squash_32_1.0": {"img_size": 32, "crop_pct": 1.0, "crop_mode": "squash"},
    "squash_32_0.9": {"img_size": 32, "crop_pct": 0.9, "crop_mode": "squash"},
    "squash_24x40_0.9": {
        "img_size": (24, 40),
        "crop_pct": 0.9,
        "crop_mode": "squash",
    },
}


def fitted() -> dict[str, np.ndarray]:
    """DeiT-tiny's file in models of other sizes, through `create_model(pretrained)`."""
    state = files.timm_vit(d=192, depth=1, image=224, patch=16, classes=1000)
    state = {k: torch.from_numpy(v) for k, v in state.items()}
    out = {}
    for case, options in FITTED.items():
        overlay = {"state_dict": dict(state)}
        options = {"depth": 1, **options}
        model = timm.create_model(
            TINY, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )
        table = model.pos_embed.detach().numpy()
        kernel = model.patch_embed.proj.weight.detach().numpy()
        out[f"{case}:pos_embed"] = table[..., :4]
        out[f"{case}:patch_embed.proj.weight"] = kernel[:4]
    return out


def images(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(base_normal("input:pretrained", shape))


def converted(folder: Path) -> dict[str, np.ndarray]:
    """What timm's `_load_weights` makes of `.npz` files: every entry, and logits."""
    np.savez(folder / "augreg.npz", **files.augreg())
    np.savez(folder / "siglip.npz", **files.siglip())
    out = {}
    for case, options in NPZ.items():
        options = {"num_classes": 5, "in_chans": 3, **files.SMALL, **options}
        model = timm.create_model("vit_tiny_patch16_224", **options).eval()
        fresh = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_pretrained(str(folder / "augreg.npz"))
        state = model.state_dict()
        for key, value in state.items():
            if not torch.equal(value, fresh[key]):
                out[f"{case}:{key}"] = value.numpy()
        side = options["img_size"]
        if options["num_classes"] == 5:
            with torch.no_grad():
                logits = model(images((2, options["in_chans"], side, side)))
            out[f"{case}:logits"] = logits.numpy()
    model = timm.create_model(
        "vit_base_patch16_siglip_224", num_classes=0, **files.SMALL
    ).eval()
    model.load_pretrained(str(folder / "siglip.npz"))
    for key, value in model.state_dict().items():
        out[f"siglip:{key}"] = value.numpy()
    with torch.no_grad():
        out["siglip:logits"] = model(images((2, 3, 16, 16))).numpy()
    return out


def from_transformers(folder: Path) -> dict[str, np.ndarray]:
    """Logits of transformers' own ViT for its own names."""
    save_file(files.transformers_vit(), folder / "model.safetensors")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        num_labels=5,
        layer_norm_eps=1e-6,
        architectures=["ViTForImageClassification"],
    )
    config.save_pretrained(folder)
    model = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(images((2, 3, 16, 16))).logits
    return {"transformers_vit:logits": logits.numpy()}


def views() -> dict[str, np.ndarray]:
    """timm's evaluation transform of a wide and a tall picture, uint8 HWC."""
    out = {}
    for shape in ((45, 70), (61, 40)):
        picture = Image.fromarray(files.smooth_image(*shape))
        for case, options in VIEWS.items():
            transform = timm.data.transforms_factory.transforms_imagenet_eval(
                interpolation="bicubic", normalize=False, **options
            )
            pixels = transform(picture).numpy().transpose(1, 2, 0)
            out[f"{case}:{shape[0]}x{shape[1]}"] = pixels
    return out


def main() -> None:
    versions = {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "transformers": transformers.__version__,
        "pillow": Image.__version__,
        "script": "tests/golden/make_pretrained.py",
    }
    with tempfile.TemporaryDirectory() as name:
        parts = {
            "fitted": (fitted(), {"cases": FITTED, "name": TINY}),
            "converted": (
                converted(Path(name)) | from_transformers(Path(name)),
                {"cases": NPZ},
            ),
            "views": (views(), {"cases": VIEWS}),
        }
    for part, (arrays, facts) in parts.items():
        manifest = json.dumps(versions | facts)
        path = HERE / "pretrained" / f"{part}.npz"
        np.savez_compressed(path, manifest=manifest, **arrays)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
