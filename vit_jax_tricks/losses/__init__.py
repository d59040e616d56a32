"""Losses: unreduced per example, keyword-only, float32 or better inside."""

from vit_jax_tricks.losses.classification import (
    sigmoid_binary_cross_entropy,
    smooth_labels,
    softmax_cross_entropy,
)
from vit_jax_tricks.losses.jensen_shannon import jensen_shannon


__all__ = [
    "jensen_shannon",
    "sigmoid_binary_cross_entropy",
    "smooth_labels",
    "softmax_cross_entropy",
]
