"""Multi-scale training: the size, the images and the gradient of each step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from vit_jax_tricks import augment
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.tasks.multi_scale import at_size
from vit_jax_tricks.train import banner


pytestmark = pytest.mark.usefixtures("home")
SIZES, SEED = (8, 16), 5
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def scaled(folder):
    return reference.build(
        folder, seed=SEED, augment__multi_scale=SIZES, augment__multi_scale_every=2
    )


@pytest.fixture(scope="module")
def programs(scaled):
    return scaled.compile_train_steps()


def test_the_size_is_of_the_seed_and_the_step(scaled, programs):
    """Each as often as the others, and one program each."""
    sizes = [scaled.size_at(step) for step in range(40)]
    draw = augment.training_size
    assert sizes == [draw(step, SIZES, every=2, seed=SEED) for step in range(40)]
    assert sizes[::2] == sizes[1::2]
    assert sizes.count(8) == sizes.count(16) == 20
    assert sorted(programs) == sorted(SIZES)


def by_hand(x, params, size):
    """Loss and gradient with images and positions resized outside of the package."""
    batch = reference.batch_of()
    images, labels = batch["image"], reference.one_hot(batch["label"])
    grid = size // 8
    box = jnp.broadcast_to(jnp.array([0, 0, 16, 16]), (len(images), 4))
    images = augment.crop_and_resize(reference.to_float(images), box, size=(size, size))
    model = x.task.model.clone(img_size=size)

    def loss(params):
        table = params["pos_embed"]
        places = table[:, 1:].reshape(1, 2, 2, -1)
        shape = (1, grid, grid, places.shape[-1])
        places = jax.image.resize(places, shape, "bicubic").reshape(1, grid**2, -1)
        table = jnp.concatenate([table[:, :1], places], axis=1)
        given = {"params": params | {"pos_embed": table}}
        logits, _ = model.apply(given, reference.normal(images), train=False)
        return reference.cross_entropy(logits, labels).mean()

    found, grads = jax.jit(jax.value_and_grad(loss))(params)
    return float(found), reference.norm(grads)


@pytest.mark.parametrize("size", SIZES)
def test_a_step_is_its_parts(scaled, programs, size):
    """Images and positions of its size; jit equals eager, but for rounding."""
    state, batch = reference.lively(scaled), scaled.put(reference.batch_of())
    want = by_hand(scaled, state.params, size)
    _, eager = scaled.train_step_at(size)(state, batch, [])
    after, found = programs[size](state, batch, [])
    got = [float(found[key]) for key in ("loss", "grad_norm")]
    np.testing.assert_allclose(got, want, rtol=TOLERANCE)
    for key, value in eager.items():
        np.testing.assert_allclose(found[key], value, rtol=TOLERANCE)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(
        jnp.shape, scaled.state_shape()
    )


def test_every_stage_gives_the_size(folder):
    """A crop goes to the size at once."""
    changes = dict(crop="random_resized", flip=True, pad=1, mixup=0.5, erasing=0.5)
    given = {f"augment__{key}": value for key, value in changes.items()}
    x = reference.build(folder, augment__multi_scale=(8,), **given)
    stack = x.task.variants[8].prepare.keywords["augment"]
    batch = reference.batch_of()
    images, geometry = jax.jit(stack)(jax.random.key(0), batch["image"], batch["index"])
    assert images.shape == (reference.BATCH, 8, 8, 3)
    assert geometry.source == (16, 16)
    assert geometry.size == (8, 8)


def test_flops_are_those_of_each_size(scaled):
    """16 pixels have four patches and a class token; 8 pixels have one."""
    small, large, plain = (banner.forward_flops(scaled, size) for size in (8, 16, None))
    assert large == plain
    assert small < 0.5 * large
    assert banner.facts(scaled)["image sizes"] == "8, 16, 2 steps each"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment__multi_scale": (12,)}, "12 does not fit the model: size 12 is not"),
        ({"augment__multi_scale": (8, 24)}, "24 is above the 16 pixels"),
        ({"augment__multi_scale": (8, 8)}, "out of range"),
        ({"augment__multi_scale": (0,)}, "out of range"),
        ({"augment__multi_scale_every": 0}, "multi_scale_every=0: out of range"),
    ],
)
def test_sizes_that_do_not_fit(folder, changes, message):
    with pytest.raises(UserError) as caught:
        reference.build(folder, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


MODELS = {  # name -> overrides, and whether its variables fit half the size
    "deit_tiny_distilled_patch16_224": ({"depth": 1}, True),
    "t2t_vit_7": ({"depth": 1}, True),
    "volo_d1_224": ({"layers": (1, 1, 1, 1)}, True),
    "swin_tiny_patch4_window7_224": (
        {"depths": (1, 1, 1, 1), "dynamic_img_size": True},
        True,
    ),
    "coatnet_0_224": ({"depths": (1, 1, 1, 1)}, "takes only images of 224x224"),
    "beit_base_patch16_224": ({"depth": 1}, "takes only images of 224x224"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_that_take_another_size(name):
    overrides, fits = MODELS[name]
    model = create_model(name, 5, **overrides)
    if fits is not True:
        with pytest.raises(UserError, match=fits):
            at_size(model, model, 128)
        return
    key = jax.random.key(0)
    whole, half = (jax.ShapeDtypeStruct((2, n, n, 3), jnp.float32) for n in (224, 112))
    variables = jax.eval_shape(model.init, key, whole)
    other = at_size(model, model, 112)
    logits, _ = jax.eval_shape(other.apply, variables, half)
    assert logits.shape == (2, 5)


@pytest.mark.slow
def test_a_quantised_model_too(folder):
    x = reference.build(
        folder,
        augment__multi_scale=SIZES,
        quant__weights="int8_narrow",
        quant__activations="int8",
        quant__calibration=16,
    )
    state = x.compile_init()
    for size, program in x.compile_train_steps().items():
        state, metrics = program(state, x.put(reference.batch_of()), [])
        assert np.isfinite(float(metrics["loss"])), size
