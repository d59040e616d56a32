"""Reference files of OpenAI's CLIP: the image towers, checked by their own tests."""

from typing import Any

import jax.numpy as jnp
from goldens import golden_images, load_golden, reference_state

from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained.load import load_arrays


SMALL: list[Any] = []
FULL: list[Any] = []
CHECKED = ("clip/clip_small", "clip/clip_vit_b32")


def create_tower(golden: str, name: str, **overrides: Any) -> Any:
    """The image tower of a reference file."""
    kwargs = load_golden(golden)[0]["kwargs"]
    fields = {
        "img_size": kwargs["image_resolution"],
        "patch_size": kwargs["vision_patch_size"],
        "embed_dim": kwargs["vision_width"],
        "depth": kwargs["vision_layers"],
        "num_heads": kwargs["vision_width"] // 64,
        "num_classes": kwargs["embed_dim"],
    }
    return create_model(name, **{**fields, **overrides})


def tower(
    golden: str, name: str, dtype: str, **overrides: Any
) -> tuple[Any, Any, Any, Any, dict, dict]:
    """Model, variables, report, images, manifest and arrays of an image tower."""
    manifest, arrays = load_golden(golden)
    model = create_tower(golden, name, dtype=dtype, param_dtype=dtype, **overrides)
    variables, report = load_arrays(model, reference_state(manifest))
    images = jnp.asarray(golden_images(manifest), dtype)
    return model, variables, report, images, manifest, arrays
