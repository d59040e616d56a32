"""Feature maps of every family against timm's `forward_intermediates`."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from goldens import base_normal, golden_images, load_golden, reference_state
from model_goldens import assert_close, jit_once
from quick import sparse
from small_models import fill

from vit_jax_tricks import compress, models
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.flops import count_flops
from vit_jax_tricks.models import create_model, stack_blocks
from vit_jax_tricks.models.feature_maps import take
from vit_jax_tricks.pretrained.load import load_arrays


MANIFEST = load_golden("features/timm")[0]
CASES = MANIFEST["cases"]
STORED = {str(case): case for case in zoo.SMALL}
QUICK = "small_vit_reg4_noembedcls"
SOME = [c if c == QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
# One of each family and of each number of prefix tokens.
EACH = [
    *("beit", "rope_mixed", "small_cait", "small_coatnet_bn", "small_deit_distilled"),
    *("small_eva_rope", "small_swin", "small_swinv2", "small_timm_convit"),
    *("small_vit_nocls", QUICK, "small_vit_relpos_bias", "small_volo_avg"),
]
# Not in timm: the official programs' blocks, stored with the models.
OTHERS = ["small_lvvit", "small_t2t_performer"]
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}


def build(case, dtype, **more):
    """Model, variables and images, those of one image for timm's maps."""
    if case in STORED:
        model, variables, images, *_ = STORED[case].build(dtype, **more)
    else:
        manifest, dtypes = CASES[case], {"dtype": dtype, "param_dtype": dtype}
        fields = manifest["kwargs"] | dtypes | more
        model = create_model(manifest["name"], **fields)
        variables, _ = load_arrays(model, reference_state(manifest))
        images = jnp.asarray(golden_images(manifest), dtype)
    return model, variables, images[:1]


def product(x):
    d = x.shape[-1]
    probe = base_normal("probe:features", (d,)).astype(np.float64)
    return np.asarray(x[0], np.float64) @ probe / d**0.5


def check(case, dtype, atol, *, norm, **more):
    model, variables, images = build(case, dtype, **more)

    def run(variables, images):
        options = {"norm": norm, "prefix_tokens": not norm}
        return models.features(model, variables, images, **options)

    arrays = load_golden("features/timm")[1]
    found = jit_once(run)(variables, images)
    for i, (x, info) in enumerate(zip(found, model.feature_info, strict=True)):
        plain = arrays[f"{case}/plain/{i}"]
        if norm:
            assert_close(product(x), arrays.get(f"{case}/norm/{i}", plain), atol)
            continue
        x, prefix = x
        assert x.shape[-1] == info.channels
        assert_close(product(x), plain, atol)
        if f"{case}/prefix/{i}" in arrays:
            assert prefix.shape[1] == info.prefix > 0
            assert_close(product(prefix), arrays[f"{case}/prefix/{i}"], atol)


@pytest.mark.parametrize("case", SOME)
def test_float64_maps_after_the_norm_are_timm_s(case, x64):
    check(case, "float64", 1e-9, norm=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", EACH)
def test_float64_maps_and_prefix_tokens_are_timm_s(case, x64):
    check(case, "float64", 1e-9, norm=False)


@pytest.mark.slow
@pytest.mark.parametrize("case", EACH)
def test_float32_of_scanned_and_recomputed_blocks_too(case):
    check(case, "float32", 2e-5, norm=False, scan=True, remat=True)


@pytest.mark.parametrize("case", CASES)
def test_levels_and_indices_are_timm_s(case):
    manifest = CASES[case]
    if case in STORED:
        golden = load_golden(STORED[case].golden)[0]
        model = STORED[case].create("float32", golden)
    else:
        model = create_model(manifest["name"], **manifest["kwargs"])
    info = [
        [x.module.replace("_", ".", x.module != "stem"), x.channels, x.reduction]
        for x in model.feature_info
    ]
    assert info == manifest["feature_info"]
    for given, expected in manifest["indices"]:
        assert take(given, len(info)) == expected


@pytest.mark.parametrize("name", MANIFEST["features_only"])
def test_levels_of_whole_models_are_those_of_features_only(name):
    expected = MANIFEST["features_only"][name]
    info = create_model(name).feature_info
    some = [info[i] for i in expected["indices"]]
    assert [x.module.replace("_", ".") for x in some] == expected["modules"]
    assert [x.channels for x in some] == expected["channels"]
    assert [x.reduction for x in some] == expected["reductions"]


@pytest.mark.parametrize("scan", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", sparse(zoo.ONE_EACH, every=5), ids=str)
def test_every_family_has_levels_of_the_shapes_it_tells(case, scan):
    manifest, _ = load_golden(case.golden)
    model = case.create("float32", manifest, scan=scan)
    h, w, c = model.image_shape
    images = jax.ShapeDtypeStruct((2, h, w, c), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert "features" not in variables
    found = jax.eval_shape(
        lambda v, x: models.features(model, v, x, norm=True), variables, images
    )
    assert [x.shape for x in found] == [
        (2, -(-h // x.reduction), -(-w // x.reduction), x.channels)
        for x in model.feature_info
    ]


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("case", OTHERS)
def test_families_that_timm_lacks_give_the_outputs_of_the_official_blocks(case, scan):
    model, variables, images, _, arrays = STORED[case].build("float32", scan=scan)
    found = jit_once(
        lambda v, x: models.features(model, v, x, norm=True, prefix_tokens=True)
    )(variables, images)
    norm = variables["params"]["norm"]
    for i, (x, prefix) in enumerate(found):
        tokens = arrays[f"block:blocks.{i}"].astype(np.float64)
        tokens = tokens - tokens.mean(-1, keepdims=True)
        tokens /= np.sqrt((tokens**2).mean(-1, keepdims=True) + 1e-5)
        tokens = tokens * np.asarray(norm["scale"]) + np.asarray(norm["bias"])
        assert_close(prefix, tokens[:, :1], 2e-5)
        assert_close(x.reshape(len(x), -1, x.shape[-1]), tokens[:, 1:], 2e-5)


@pytest.fixture(scope="module")
def deit():
    """A small model, its variables and images."""
    model = create_model("deit_tiny_patch16_224", 10, **SMALL)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    return model, fill(model, images), images


def test_the_program_without_features_is_unchanged(deit):
    model, variables, images = deit
    plain = jax.make_jaxpr(model.apply)(variables, images)
    assert str(plain).count("features") == 0
    _, state = jax.eval_shape(
        lambda v, x: model.apply(v, x, mutable=["intermediates"]), variables, images
    )
    assert not state


def test_blocks_after_the_last_level_are_not_computed(deit):
    """In a jitted call each level adds its own block: a third of the operations."""
    model, variables, images = deit

    def flops(i):
        def run(v, x):
            return models.features(model, v, x, indices=(i,))

        compiled = jax.jit(run).lower(variables, images).compile()
        costs: Any = compiled.cost_analysis()
        return costs["flops"]

    first, second = map(flops, range(2))
    whole = 2 * count_flops(model.apply, variables, images).macs
    assert first < 0.6 * whole
    assert second - first > 0.25 * whole


def test_the_last_normed_map_is_the_model_s_tokens_also_with_closed_channels(deit):
    model, variables, images = deit
    gated = variables | {"gates": {"width": (jnp.arange(32) % 2).astype(jnp.float32)}}

    @jit_once
    def run(variables, images):
        options = {"indices": 1, "norm": True, "prefix_tokens": True}
        (pair,) = models.features(model, variables, images, **options)
        return pair, model.apply(variables, images)[1]["tokens"]

    (x, prefix), tokens = run(gated, images)
    assert_close(x.reshape(2, 16, 32), tokens[:, 1:], 1e-6)
    assert_close(prefix, tokens[:, :1], 1e-6)


class Detector(nn.Module):
    """Somebody's own module with one of our models inside."""

    backbone: nn.Module

    @nn.compact
    def __call__(self, images, train=False):
        maps = self.backbone.features(images, indices=(0, -1), train=train)
        return [nn.Conv(4, (1, 1))(x) for x in maps]


def test_a_model_inside_another_module(deit):
    model, variables, images = deit
    detector = Detector(model)
    shapes = jax.eval_shape(detector.init, jax.random.key(0), images)["params"]
    assert set(shapes) == {"backbone", "Conv_0", "Conv_1"}
    kernel = {"kernel": jnp.ones((1, 1, 32, 4)), "bias": jnp.zeros(4)}
    params = {"backbone": variables["params"], "Conv_0": kernel, "Conv_1": kernel}

    found = jit_once(detector.apply)({"params": params}, images)
    maps = jit_once(lambda v, x: models.features(model, v, x, indices=(0, 2)))(
        variables, images
    )
    for x, y in zip(found, maps, strict=True):
        assert_close(x[..., 0], y.sum(-1), 1e-4)


@pytest.mark.slow
def test_training_updates_statistics_inside_another_module():
    case = STORED["small_coatnet_bn"]
    model, variables, images, *_ = case.build("float32", drop_path_rate=0.5)
    key = {"dropout": jax.random.key(3)}
    detector = Detector(model)
    start: Any = jax.eval_shape(
        lambda x: detector.init({"params": jax.random.key(0), **key}, x, train=True),
        images,
    )
    assert start["batch_stats"].keys() == {"backbone"}
    heads = {k: v for k, v in start["params"].items() if k != "backbone"}
    merged = {
        "params": {
            **jax.tree.map(lambda x: jnp.ones(x.shape), heads),
            "backbone": variables["params"],
        },
        "batch_stats": {"backbone": variables["batch_stats"]},
    }

    @jit_once
    def run(variables, merged, images):
        options: Any = dict(train=True, rngs=key, mutable=["batch_stats"])
        _, own = model.apply(variables, images, **options)
        maps, updated = models.features(model, variables, images, **options)
        _, state = detector.apply(merged, images, **options)
        return own, updated, {"batch_stats": state["batch_stats"]["backbone"]}, maps

    own, updated, inside, maps = run(variables, merged, images)
    assert len(maps) == 3
    chex.assert_trees_all_close(updated, own, atol=1e-6)
    mean = [x["batch_stats"]["stem"]["norm1"]["mean"] for x in (inside, own)]
    np.testing.assert_allclose(*mean, atol=1e-6)
    chex.assert_trees_all_equal_shapes(inside, own)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_gradients_of_scanned_and_recomputed_blocks_are_equal(remat, deit):
    model, variables, images = deit

    def grad(model, params):
        def loss(params):
            maps = models.features(
                model, {"params": params}, images, indices=(0, 1), norm=True
            )
            return sum((x**3).sum() for x in maps)

        return jit_once(jax.grad(loss))(params)

    plain = grad(model, variables["params"])
    scanned = model.clone(scan=True, remat=remat)
    found = grad(scanned, stack_blocks(variables["params"]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        found,
        stack_blocks(plain),
    )


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (4, "indices=4 takes the last 4 levels, and the model has 3; use 1 to 3"),
        (0, "use 1 to 3"),
        ((0, 3), "from 0 to 2, or from -3 to -1"),
        ((), "use None for all"),
        ((2, 0), r"not in ascending order; use \(0, 2\)"),
        ((0, 0), r"not in ascending order; use \(0,\)"),
    ],
)
def test_wrong_indices_are_one_line(indices, message, deit):
    with pytest.raises(UserError, match=message) as error:
        models.features(*deit, indices=indices)
    assert "\n" not in str(error.value)


def test_a_model_without_variables_says_what_to_type(deit):
    model, variables, images = deit
    with pytest.raises(UserError, match=r"models\.features\(model, variables, images"):
        model.features(images)
    shapes = jax.eval_shape(
        lambda v, x: model.apply(v, x, method="features", indices=1), variables, images
    )
    assert [x.shape for x in shapes] == [(2, 4, 4, 32)]


@pytest.mark.slow
def test_a_quantised_model_gives_its_own_maps(deit):
    model, variables, images = deit
    rules = compress.standard_rules()
    ranges = compress.calibrate(model, variables, [images], rules)
    quantized = compress.QuantizedModel(model, rules)
    filled = quantized.with_ranges(variables, ranges)
    maps = models.features(quantized, filled, images, indices=2)
    plain = models.features(model, variables, images, indices=2)
    for x, y in zip(maps, plain, strict=True):
        assert 1e-4 < float(jnp.abs(x - y).max()) < 0.5 * float(jnp.abs(y).max())


def test_dropped_patches_and_mixed_images_give_no_maps(deit):
    model, variables, images = deit
    rngs = {"dropout": jax.random.key(0)}
    dropping = model.clone(patch_drop_rate=0.5)
    with pytest.raises(UserError, match="8 patches of 4x4, so no map"):
        jax.eval_shape(
            lambda v, x: models.features(dropping, v, x, train=True, rngs=rngs),
            variables,
            images,
        )
    mixing, variables, images, *_ = STORED["small_lvvit"].build("float32")
    with pytest.raises(UserError, match="mix_token=False"):
        jax.eval_shape(
            lambda v, x: models.features(
                mixing, v, x, train=True, rngs=rngs, mutable=["batch_stats"]
            ),
            variables,
            images,
        )
