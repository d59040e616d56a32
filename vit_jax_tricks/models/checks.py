"""Checks of fields and images shared by the model families, with one-line errors."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array


def check_least(model: Any, least: Mapping[str, int]) -> None:
    """Raises UserError if a field is below its minimum."""
    for field, value in least.items():
        if getattr(model, field) < value:
            raise UserError(
                f"{field}={getattr(model, field)} is too small; use {value} or more."
            )


def check_rates(model: Any) -> None:
    """Raises UserError if a field named `..._rate` is outside [0, 1]."""
    for field in (f for f in model.__dataclass_fields__ if f.endswith("_rate")):
        rate = getattr(model, field)
        if not 0 <= rate <= 1:
            raise UserError(f"{field}={rate} is not a rate between 0 and 1.")


def check_choices(model: Any, choices: Mapping[str, tuple[str, ...]]) -> None:
    """Raises UserError if a field's value is not one of its valid values."""
    for field, valid in choices.items():
        if getattr(model, field) not in valid:
            raise UserError(
                f"{field}={getattr(model, field)!r} is unknown; use one of "
                f"{', '.join(valid)}."
            )


def check_heads(model: Any) -> None:
    """Raises UserError unless num_heads divides embed_dim."""
    if model.embed_dim % model.num_heads:
        raise UserError(
            f"embed_dim={model.embed_dim} is not divisible by num_heads="
            f"{model.num_heads}; change either."
        )


def check_hidden(model: Any, width: int) -> None:
    """Raises UserError if a field named `mlp_ratio...` leaves an MLP without units."""
    for field in (f for f in model.__dataclass_fields__ if f.startswith("mlp_ratio")):
        if width * getattr(model, field) < 1:
            raise UserError(f"{field}={getattr(model, field)} leaves no hidden units.")


def check_patches(model: Any) -> None:
    """Raises UserError unless patch_size divides both sides of an image."""
    h, w, _ = model.image_shape
    p = model.patch_size
    if h % p or w % p:
        raise UserError(
            f"img_size={model.img_size} is not divisible by patch_size={p}; use a "
            f"multiple, such as img_size={max(1, round(h / p)) * p}."
        )


def check_images(model: Any, images: Array) -> None:
    """Raises UserError for images of the wrong shape or without a float dtype."""
    if images.shape[1:] != model.image_shape:
        raise UserError(
            f"images have shape {images.shape[1:]}, the model expects "
            f"{model.image_shape}; resize them or create the model with another "
            "img_size or in_chans."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"images are {images.dtype}, the model expects normalised floats: "
            "(images / 255 - mean) / std, with `preprocessing(name)`."
        )
