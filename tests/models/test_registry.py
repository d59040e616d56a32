"""Model names, their parameter counts and the errors of `create_model`."""

import jax.numpy as jnp
import pytest
import zoo
from goldens import GOLDEN, load_golden
from model_goldens import check_count, published_counts

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model, list_models, preprocessing
from vit_jax_tricks.models.registry import lookup


NAMES = list_models()


@pytest.mark.parametrize("name", NAMES[::16])
def test_parameter_count_is_exactly_the_reference_s(name):
    check_count(name, operations=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_multiply_accumulates_are_the_reference_s(name):
    check_count(name, operations=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_has_a_reference_file_that_is_checked(name):
    golden = lookup(name).golden
    assert (GOLDEN / f"{golden}.npz").is_file()
    assert golden in zoo.CHECKED


def test_a_published_table_is_covered():
    """Every name of the ViT, DeiT and DeiT-III tables can be created."""
    published = [
        *(
            f"vit_{s}_patch16_{r}"
            for s in ("tiny", "small", "base", "large")
            for r in (224, 384)
        ),
        *(
            f"vit_{s}_patch32_{r}"
            for s in ("small", "base", "large")
            for r in (224, 384)
        ),
        "vit_base_patch8_224",
        "vit_large_patch14_224",
        "vit_huge_patch14_224",
        *(f"deit_{s}_patch16_224" for s in ("tiny", "small", "base")),
        *(f"deit_{s}_distilled_patch16_224" for s in ("tiny", "small", "base")),
        "deit_base_patch16_384",
        "deit_base_distilled_patch16_384",
        *(f"deit3_{s}_patch16_224" for s in ("small", "medium", "base", "large")),
        *(f"deit3_{s}_patch16_384" for s in ("small", "base", "large")),
        "deit3_huge_patch14_224",
    ]
    assert set(published) <= set(NAMES)


def test_the_default_classes_are_timm_s():
    counts = published_counts()
    names = [name for name in NAMES if name in counts]
    ours = {name: create_model(name).num_classes for name in names}
    assert ours == {name: counts[name]["num_classes"] for name in names}
    assert {0, 512, 768, 1000, 1024, 11821} <= set(ours.values())


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("clip_vit_b32_image", 512),
        ("clip_vit_l14_336_image", 768),
        ("vit_base_patch16_siglip_224", 0),
        ("vit_small_patch14_dinov2", 0),
        ("vit_small_patch16_dinov3", 0),
        ("deit_tiny_patch16_224", 1000),
    ],
)
def test_default_classes(name, classes):
    assert create_model(name).num_classes == classes
    assert create_model(name, None, img_size=224).num_classes == classes
    for given in (0, 7, 1000):
        assert create_model(name, given).num_classes == given
        assert create_model(name, num_classes=given).num_classes == given


def test_patterns():
    assert list_models("deit_*distilled*224") == [
        "deit_base_distilled_patch16_224",
        "deit_small_distilled_patch16_224",
        "deit_tiny_distilled_patch16_224",
    ]
    assert list_models("nothing") == []


@pytest.mark.parametrize("case", [c for c in zoo.FULL if "timm_" in c.golden], ids=str)
def test_preprocessing_is_timm_s(case):
    manifest, _ = load_golden(case.golden)
    reference = manifest["kwargs"]["pretrained_cfg"]
    ours = preprocessing(case.name)
    assert list(ours.mean) == reference["mean"]
    assert list(ours.std) == reference["std"]
    assert ours.crop_pct == reference["crop_pct"]
    assert ours.crop_mode == reference["crop_mode"]
    assert ours.interpolation == reference["interpolation"]


def test_preprocessing():
    deit = preprocessing("deit_small_patch16_224")
    assert deit.mean == (0.485, 0.456, 0.406)
    assert deit.std == (0.229, 0.224, 0.225)
    assert (deit.crop_pct, deit.interpolation) == (0.9, "bicubic")
    assert preprocessing("vit_small_patch16_224").mean == (0.5, 0.5, 0.5)
    assert preprocessing("deit_base_patch16_384").crop_pct == 1.0


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("deit_smal_patch16_224", {}, 'Did you mean "deit_small_patch16_224"'),
        ("resnet50", {}, "list_models"),
        ("deit_tiny_patch16_224", {"drop_pth_rate": 0.1}, '"drop_path_rate"'),
        ("deit_tiny_patch16_224", {"depth": "twelve"}, "it must be int"),
        ("deit_tiny_patch16_224", {"depth": 2.5}, "it must be int"),
        ("deit_tiny_patch16_224", {"depth": True}, "it must be int"),
        ("deit_tiny_patch16_224", {"qkv_bias": 1}, "it must be bool"),
        ("deit_tiny_patch16_224", {"img_size": [32, 32, 3]}, "img_size"),
        ("deit_tiny_patch16_224", {"dtype": "int8"}, "use one of float32"),
        ("deit_tiny_patch16_224", {"dtype": "float31"}, "use one of float32"),
        ("deit_tiny_patch16_224", {"num_heads": 5}, "not divisible by num_heads=5"),
        ("deit_tiny_patch16_224", {"img_size": 230}, "img_size=224"),
        ("deit_tiny_patch16_224", {"global_pool": "mean"}, "token, avg"),
        ("deit_tiny_patch16_224", {"act_layer": "relu6"}, "quick_gelu"),
        ("deit_tiny_patch16_224", {"class_token": False}, "global_pool"),
        ("deit_tiny_patch16_224", {"stem": "hmlp", "patch_size": 8}, "patch_size=16"),
        ("deit_tiny_patch16_224", {"drop_path_rate": 1.5}, "between 0 and 1"),
        ("deit_tiny_patch16_224", {"depth": -1}, "depth=-1"),
        ("deit_tiny_patch16_224", {"num_heads": 0}, "num_heads=0"),
    ],
)
def test_mistakes_are_one_clear_line(name, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        create_model(name, **overrides)
    assert "\n" not in str(error.value)


def test_values_as_configs_give_them():
    model = create_model(
        "vit_tiny_patch16_224", img_size=[32, 64], mlp_ratio=2, dtype="bfloat16"
    )
    assert model.img_size == (32, 64)
    assert model.grid == (2, 4)
    assert isinstance(model.mlp_ratio, float)
    assert model.dtype == jnp.bfloat16
    assert hash(model) is not None
