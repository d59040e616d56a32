"""Losses: unreduced per example, keyword-only, computed in float32 or better."""

from vit_jax_tricks.losses.classification import (
    sigmoid_binary_cross_entropy,
    smooth_labels,
    softmax_cross_entropy,
)
from vit_jax_tricks.losses.contrastive import clip_contrastive, siglip_contrastive
from vit_jax_tricks.losses.distillation import (
    SCALINGS,
    feature_distillation,
    hard_distillation,
    soft_distillation,
)
from vit_jax_tricks.losses.divergence import jensen_shannon, kl_divergence, symmetric_kl
from vit_jax_tricks.losses.focal import (
    focal,
    focal_modulated,
    focal_of_cross_entropy,
    focal_pt,
    smoothed_focal,
)
from vit_jax_tricks.losses.inputs import mean_where
from vit_jax_tricks.losses.keep_ratio import keep_ratio
from vit_jax_tricks.losses.roi_align import roi_align
from vit_jax_tricks.losses.token_label_targets import dense_scores, token_label_targets
from vit_jax_tricks.losses.token_labels import (
    corrected_class_labels,
    mix_class_labels,
    token_label_cross_entropy,
)


__all__ = [
    "SCALINGS",
    "clip_contrastive",
    "corrected_class_labels",
    "dense_scores",
    "feature_distillation",
    "focal",
    "focal_modulated",
    "focal_of_cross_entropy",
    "focal_pt",
    "hard_distillation",
    "jensen_shannon",
    "keep_ratio",
    "kl_divergence",
    "mean_where",
    "mix_class_labels",
    "roi_align",
    "siglip_contrastive",
    "sigmoid_binary_cross_entropy",
    "smooth_labels",
    "smoothed_focal",
    "soft_distillation",
    "softmax_cross_entropy",
    "symmetric_kl",
    "token_label_cross_entropy",
    "token_label_targets",
]
