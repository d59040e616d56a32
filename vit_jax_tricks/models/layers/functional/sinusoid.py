"""Fixed sinusoidal positions."""

import numpy as np

from vit_jax_tricks.typing import Float


def sinusoid_positions(n: int, d: int) -> Float[np.ndarray, "1 n d"]:
    """sin(p / 10000^(2 floor(j / 2) / d)) in even columns j, cos in odd ones; float32.

    Source: Vaswani et al., 2017, arXiv:1706.03762. Equivalent to T2T-ViT's
    `get_sinusoid_encoding` (tested).
    """
    j = np.arange(d)
    angle = np.arange(n)[:, None] / 10000 ** (2 * (j // 2) / d)
    table = np.where(j % 2 == 0, np.sin(angle), np.cos(angle))
    return table[None].astype(np.float32)
