"""Images for comparisons with Pillow: a photograph, and two that no file shows."""

import jax.numpy as jnp
import numpy as np
import PIL.Image
from goldens import load_golden


def photo():
    """64 x 64, from the reference files (credit in tests/golden/augment/CREDITS.md)."""
    return load_golden("augment/pil_tone_photo")[1]["input"]


def unseen(h=45, w=62, seed=0):
    """Soft colours with some noise, not square."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (h // 7 + 2, w // 7 + 2, 3), np.uint8)
    smooth = PIL.Image.fromarray(coarse).resize((w, h), PIL.Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth) + rng.integers(-9, 10, (h, w, 3)), 0, 255).astype(
        np.uint8
    )


def batch(n=8, h=24, w=20, seed=0):
    """n different unseen images, uint8."""
    return jnp.asarray(np.stack([unseen(h, w, seed + i) for i in range(n)]))
