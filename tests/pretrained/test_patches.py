"""Other patches and channels: what the fitting means, and that each family has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import base_normal

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained.export import reference_arrays
from vit_jax_tricks.pretrained.load import load_arrays
from vit_jax_tricks.pretrained.patches import adapt_channels, resample_patches


FAMILIES = {
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 1},
    "vit_base_patch16_clip_quickgelu_224": {
        "img_size": 32,
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
    },
    "swin_tiny_patch4_window7_224": {
        "img_size": 56,
        "embed_dim": 16,
        "depths": (1, 1),
        "num_heads": (2, 2),
    },
    "cait_xxs24_224": {"img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "convit_tiny": {"img_size": 32, "depth": 2, "local_up_to_layer": 1},
    "lvvit_t": {"img_size": 32, "depth": 1},
}


@pytest.mark.parametrize("size", [(8, 8), (6, 12), (3, 4)])
def test_larger_patches_of_resized_images_answer_the_same(size):
    weight = base_normal("weight", (5, 2, 3, 4))
    patch = base_normal("patch", (2, 3, 4))
    larger = np.asarray(jax.image.resize(patch, (2, *size), "bicubic", antialias=True))
    new = resample_patches(weight, size)
    answer = np.einsum("oihw,ihw->o", weight, patch)
    np.testing.assert_allclose(np.einsum("oihw,ihw->o", new, larger), answer, atol=1e-5)


def test_equal_channels_answer_the_same():
    weight = base_normal("weight", (5, 3, 2, 2))
    grey = base_normal("grey", (2, 2))
    answer = np.einsum("oihw,hw->o", weight, grey)
    for channels in (1, 6):
        new = adapt_channels(weight, channels)
        assert new.shape == (5, channels, 2, 2)
        np.testing.assert_allclose(
            np.einsum("oihw,hw->o", new, grey), answer, atol=1e-5
        )
    assert adapt_channels(weight, 3) is weight


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_grey_images(name):
    model = create_model(name, 5, **FAMILIES[name])
    images = jnp.zeros((1, *model.image_shape))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), shapes)
    arrays = reference_arrays(variables, name)
    grey = create_model(name, 5, in_chans=1, **FAMILIES[name])
    fitted, report = load_arrays(grey, arrays)
    (entry,) = report.resized
    stem = entry.split()[0]
    expected = arrays[stem].sum(1, keepdims=True)
    np.testing.assert_array_equal(reference_arrays(fitted, name)[stem], expected)


def test_kernels_of_a_deeper_stem_are_not_resampled():
    name = "lvvit_t"
    model = create_model(name, 5, **FAMILIES[name])
    images = jnp.zeros((1, *model.image_shape))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    arrays = reference_arrays(
        jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes), name
    )
    kernel = arrays["patch_embed.conv1.weight"]
    arrays["patch_embed.conv1.weight"] = kernel[..., :3, :3]
    with pytest.raises(UserError, match=r"its kernel is \(3, 3\), not \(7, 7\)"):
        load_arrays(model, arrays)
