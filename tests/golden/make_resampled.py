"""Computes tests/golden/pretrained/resampled.npz with timm.

    python -m venv ref && ref/bin/pip install torch==2.13.0 timm==1.0.31
    ref/bin/python tests/golden/make_resampled.py

What timm makes of patch embeddings and of relative position bias tables of other sizes.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch


# torchvision's Python parts without its compiled operators.
for operator in ("nms", "qnms"):
    schema = "(Tensor dets, Tensor scores, float threshold) -> Tensor"
    torch.library.define(f"torchvision::{operator}", schema)

import timm
from timm.layers import patch_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from goldens import base_normal


PATCHES = [
    *((16, 16, 12, 20), (16, 16, 8, 24), (16, 16, 20, 12), (16, 16, 16, 8)),
    *((14, 14, 16, 16), (8, 8, 5, 7), (4, 8, 8, 4), (7, 3, 2, 9), (3, 4, 1, 6)),
    *((1, 5, 4, 5), (16, 16, 15, 17)),
]
# Old window, new window.
WINDOWS = [
    *((8, 8, 8, 16), (8, 8, 16, 8), (7, 7, 12, 12), (12, 12, 7, 7), (3, 3, 2, 5)),
    *((4, 8, 8, 8), (4, 8, 4, 6), (2, 8, 5, 3), (1, 4, 1, 6), (4, 4, 1, 4)),
]
EXTRA = (0, 3)  # rows for the class token


def main() -> None:
    out = {}
    # timm's own float32 is off by up to 3e-5 between nearly equal sizes.
    patch_embed.DTYPE_INTERMEDIATE = torch.float64
    for *old, h, w in PATCHES:
        weight = torch.from_numpy(base_normal("weight", (2, 1, *old))).double()
        for how, antialias in (("bicubic", True), ("bilinear", False)):
            new = patch_embed.resample_patch_embed(weight, [h, w], how, antialias)
            out[f"{how}:{old[0]}x{old[1]}:{h}x{w}"] = new.numpy()
    for *old, h, w in WINDOWS:
        for extra in EXTRA:
            rows, new_rows = (
                (2 * i - 1) * (2 * j - 1) + extra for i, j in (old, (h, w))
            )
            table = torch.from_numpy(base_normal("table", (rows, 2)))
            new = resize_rel_pos_bias_table(table, (h, w), (new_rows, 2), tuple(old))
            out[f"table:{old[0]}x{old[1]}:{h}x{w}:{extra}"] = new.numpy()
    manifest = {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "script": "tests/golden/make_resampled.py",
    }
    path = HERE / "pretrained" / "resampled.npz"
    np.savez_compressed(path, manifest=json.dumps(manifest), **out)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
