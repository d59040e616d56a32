"""Reference files of ViT's relatives: relative biases, MAP head, EVA-02."""

import numpy as np
import pytest
from goldens import load_golden
from model_goldens import Case

from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.functional import position_rotary


RELPOS, SIGLIP = "vit_relpos_small_patch16_224", "vit_base_patch16_siglip_224"
EVA = "eva02_tiny_patch14_224"


def reference_sines(patch: pytest.MonkeyPatch) -> None:
    """Float32 sines and cosines of angles as the reference's library rounds them.

    It is off by up to 0.57 units in the last place, which float64 logits show (4e-8).
    The stored table has the angles of all files here; another angle is a KeyError.
    """
    _, arrays = load_golden("ops/position_tables")
    points = functional.rotary_coordinates((16, 16), reference=(16, 16))
    angles = functional.rotary_axial(points, 64).ravel()
    table = arrays["eva02_tiny_rope_embed_16x16"].reshape(-1, 2, 32, 2)[..., 0]
    sines = dict(zip(angles, table[:, 0].ravel(), strict=True))
    cosines = dict(zip(angles, table[:, 1].ravel(), strict=True))

    def look_up(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.vectorize(sines.__getitem__)(angles), np.vectorize(
            cosines.__getitem__
        )(angles)

    patch.setattr(position_rotary, "_rounded_sin_cos", look_up)


SMALL = [
    Case("models_small/small_vit_relpos_bias", RELPOS),
    Case("models_small/small_vit_relpos_mlp", RELPOS),
    Case("models_small/small_vit_map_head", SIGLIP),
    Case("models_small/small_eva_rope", EVA, patch=reference_sines),
]
FULL = [
    Case(f"models_full/timm_{RELPOS}", RELPOS),
    Case(f"models_full/timm_{SIGLIP}", SIGLIP, {"num_classes": 0}),
    Case(f"models_full/timm_{EVA}", EVA, patch=reference_sines),
]
