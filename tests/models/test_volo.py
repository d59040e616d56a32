"""Properties of VOLO beyond its reference values."""

import json
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import volo_goldens
from goldens import load_golden
from model_goldens import assert_close, jit_once

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model, stack_blocks, unstack_blocks
from vit_jax_tricks.optim.param_groups import describe
from vit_jax_tricks.pretrained.export import reference_arrays
from vit_jax_tricks.pretrained.load import load_arrays
from vit_jax_tricks.pretrained.resize import resize_positions
from vit_jax_tricks.pretrained.rules import find_path
from vit_jax_tricks.pretrained.volo_rules import VOLO
from vit_jax_tricks.sharding import make_mesh, state_shardings


pytestmark = pytest.mark.slow


TINY = {
    "img_size": 32,
    "layers": (2, 2),
    "embed_dims": (16, 32),
    "num_heads": (2, 4),
    "downsamples": (True, False),
    "outlook_attention": (True, False),
    "mlp_ratio": 2.0,
    "stem_hidden_dim": 8,
}
KEY = jax.random.key(0)


def fill(model, batch=2):
    """Variables far from zero, and images."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((batch, *model.image_shape), np.float32))
    shapes = jax.eval_shape(model.init, KEY, images)

    def value(path, leaf):
        noise = 0.1 * rng.standard_normal(leaf.shape, np.float32)
        return noise + np.float32(path[-1].key in ("scale", "var"))

    return jax.device_put(jax.tree_util.tree_map_with_path(value, shapes)), images


@partial(jit_once, static_argnums=0)
def train(model, variables, images, key=KEY, box=None):
    """Logits and aux of a training step's forward pass."""
    return model.apply(
        variables,
        images,
        train=True,
        box=box,
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )[0]


@pytest.mark.parametrize("case", volo_goldens.SMALL[1:], ids=str)
def test_training_uses_and_moves_the_statistics_as_pytorch(case):
    model, variables, images, _, arrays = case.build("float32")
    run = jit_once(partial(model.apply, train=True, mutable=["batch_stats"]))
    (logits, _), state = run(variables, images)
    assert_close(logits, arrays["train_logits"], 2e-5)
    moved = reference_arrays({**variables, **state}, case.name)
    checked = [key for key in arrays if key.startswith("after_train:")]
    assert len(checked) == 6
    for key in checked:
        assert_close(moved[key.removeprefix("after_train:")], arrays[key], 2e-6)


def test_scan_and_remat_equal_the_unrolled_model():
    model = create_model("volo_d1_224", 10, **TINY)
    variables, images = fill(model)
    params = variables["params"]

    def loss(params, model):
        logits, _ = train.__wrapped__(model, {**variables, "params": params}, images)
        return (logits**2).sum()

    grad = jit_once(jax.grad(loss), static_argnums=1)
    expected = grad(params, model)
    grads = grad(stack_blocks(params), model.clone(scan=True, remat=True))
    assert "blocks" in grads["network_0"]
    chex.assert_trees_all_close(unstack_blocks(grads), expected, atol=1e-4, rtol=1e-4)


def test_only_transformers_drop_paths():
    """As in timm: rates rise over all blocks, outlookers ignore theirs."""
    options = {"layers": (1, 2), "drop_path_rate": 1.0}
    model = create_model("volo_d1_224", 10, **TINY | options)
    variables, images = fill(model)
    one, two = (train(model, variables, images, jax.random.key(i)) for i in range(2))
    assert jnp.abs(one[0] - two[0]).max() > 1e-4
    outlookers = model.clone(outlook_attention=(True, True))
    variables, images = fill(outlookers)
    one, two = (
        train(outlookers, variables, images, jax.random.key(i)) for i in range(2)
    )
    chex.assert_trees_all_equal(one, two)


@pytest.mark.parametrize("rate", ["drop_rate", "pos_drop_rate", "attn_drop_rate"])
def test_every_dropout_acts_in_training_only(rate):
    model = create_model("volo_d1_224", 10, **TINY | {"layers": (1, 1)})
    variables, images = fill(model)
    model = model.clone(**{rate: 0.5})
    one, two = (train(model, variables, images, jax.random.key(i))[0] for i in (0, 1))
    assert jnp.abs(one - two).max() > 1e-4
    evaluated = jit_once(model.apply)(variables, images)[0]
    plain = jit_once(model.clone(**{rate: 0.0}).apply)(variables, images)[0]
    chex.assert_trees_all_equal(evaluated, plain)


def test_evaluation_adds_half_of_the_best_token():
    model = create_model("volo_d1_224", 10, **TINY)
    variables, images = fill(model)
    logits, aux = jit_once(model.apply)(variables, images)
    assert aux["logits_aux"].shape == (2, 4, 10)
    expected = aux["logits_cls"] + aux["logits_aux"].max(1) / 2
    chex.assert_trees_all_equal(logits, expected)
    headless = model.clone(use_aux_head=False)
    params = {k: v for k, v in variables["params"].items() if k != "aux_head"}
    plain = jit_once(headless.apply)({**variables, "params": params}, images)
    chex.assert_trees_all_close(plain[0], aux["logits_cls"], atol=1e-6, rtol=0)
    assert set(plain[1]) == {"tokens", "features"}


def test_mix_token_puts_every_token_s_logits_back():
    """A box of everything is the reversed batch, whose dense logits come back."""
    options = {"use_mix_token": True, "img_size": 64, "layers": (1, 1)}
    model = create_model("volo_d1_224", 10, **TINY | options)
    variables, images = fill(model, batch=4)
    plain = model.clone(use_mix_token=False)
    _, expected = train(plain, variables, images)
    logits, aux = train(model, variables, images, KEY, jnp.array([0, 4, 0, 4]))
    close = partial(np.testing.assert_allclose, atol=1e-5)
    close(aux["logits_aux"], expected["logits_aux"])
    close(logits, expected["logits_cls"][::-1])
    assert float(aux["mix_lam"]) == 0
    _, aux = train(model, variables, images, KEY, jnp.array([1, 3, 0, 2]))
    assert float(aux["mix_lam"]) == pytest.approx(1 - 4 / 16)
    boxes = {
        tuple(train(model, variables, images, jax.random.key(i))[1]["mix_box"].tolist())
        for i in range(4)
    }
    assert len(boxes) > 1
    evaluated = jit_once(model.apply)(variables, images)[0]
    chex.assert_trees_all_equal(evaluated, jit_once(plain.apply)(variables, images)[0])


def test_position_tables_of_another_image_size_are_resampled():
    small = create_model("volo_d1_224", 10, **TINY | {"img_size": 64})
    large = small.clone(img_size=(96, 64))
    assert large.grid == (6, 4)
    variables, _ = fill(small)
    arrays = reference_arrays(variables, "volo_d1_224")
    loaded, report = load_arrays(large, arrays)
    assert [entry.split()[0] for entry in report.resized] == ["pos_embed"]
    table = arrays["pos_embed"].reshape(1, 16, 32)
    expected = resize_positions(table, (6, 4), prefix=0).reshape(1, 6, 4, 32)
    np.testing.assert_allclose(loaded["params"]["pos_embed"], expected, atol=1e-6)


def test_initialisation_is_the_reference_s():
    options = {"embed_dims": (64, 128), "img_size": 64, "layers": (1, 1)}
    model = create_model("volo_d1_224", 1000, **TINY | options)
    params = jit_once(model.init)(KEY, jnp.zeros((1, 64, 64, 3)))["params"]
    outlook = params["network_0"]["blocks_0"]["attn"]
    for kernel in (
        outlook["v"]["kernel"],
        outlook["attn"]["kernel"],
        params["network_2"]["blocks_0"]["attn"]["qkv"]["kernel"],
        params["post_network_0"]["attn"]["kv"]["kernel"],
        params["aux_head"]["kernel"],
        params["pos_embed"],
    ):
        assert kernel.std() == pytest.approx(0.02, rel=0.05)
    assert not outlook["attn"]["bias"].any()
    for leaf in params["network_1"]["proj"].values():
        assert leaf.std() == pytest.approx((3 * 64 * 4) ** -0.5, rel=0.15)


@pytest.mark.parametrize("scan", [False, True])
def test_decay_and_layers_are_timm_s(scan):
    _, arrays = load_golden("train/param_groups")
    splits = json.loads(arrays["json_utf8"].tobytes())["weight_decay_split"]
    net = create_model("volo_d1_224", scan=scan)
    params = jax.eval_shape(net.init, KEY, jnp.zeros((1, 224, 224, 3)))["params"]
    rows = {row.name: row for row in describe(params, layer_decay=0.5, roles=net.roles)}
    rules = VOLO.dialects["timm"]
    starts = {0: 1, 1: 5, 2: 6, 3: 10, 4: 18}  # the layer of each part's first block
    for kind, factor in (("decay", 1.0), ("no_decay", 0.0)):
        for key in splits["volo_d1_224"][kind]:
            path, _ = find_path(key, rules)
            row = rows.pop(path.removeprefix("params/"))
            assert row.decay == factor
            first, *more = key.split(".")
            layer = {"norm": 21, "head": 22, "aux_head": 22}.get(first, 0)
            if first == "network":
                part, *block = (int(n) for n in more[:2] if n.isdigit())
                layer = starts[part] + sum(block)
            if first == "post_network":
                layer = 20 + int(more[0])
            assert row.lr == 0.5 ** (22 - layer), key
    assert not rows


def test_a_mesh_changes_nothing():
    model = create_model("volo_d1_224", 10, **TINY | {"layers": (1, 1)})
    variables, images = fill(model, batch=8)
    alone = train(model, variables, images)[0]
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    shardings = state_shardings(variables, mesh)
    outlook = shardings["params"]["network_0"]["blocks_0"]["attn"]["attn"]["kernel"]
    assert tuple(outlook.spec) == (None, "tensor", None)
    with jax.set_mesh(mesh):
        placed = jax.device_put(variables, shardings)
        spread = train(model, placed, images)[0]
    np.testing.assert_allclose(spread, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"img_size": 230}, "img_size=232"),
        ({"patch_size": 6, "img_size": 48}, "patch_size=6 must be 4, 8 or 16"),
        ({"layers": (1, 1)}, "embed_dims has 4 entries, layers has 2"),
        ({"layers": (1, 0, 1, 1)}, "1 or more"),
        ({"num_heads": (5, 12, 12, 12)}, "not divisible by num_heads"),
        ({"downsamples": (True,)}, "downsamples has 1 entries"),
        ({"mlp_ratio": (1.0, 2.0)}, "mlp_ratio has 2 entries"),
        ({"downsamples": (False,) * 4}, "embed_dims=.* change at stage 1"),
        ({"pooling_scale": 4}, "do not fit the map"),
        ({"downsamples": (True, False, False, True)}, "no stage after"),
        ({"global_pool": "max"}, "token, avg"),
        ({"post_layers": None}, 'needs global_pool="avg"'),
        ({"post_layers": ["sa"]}, 'entries are "ca"'),
        ({"use_mix_token": True, "use_aux_head": False}, "needs use_aux_head"),
        ({"use_mix_token": True, "global_pool": "avg"}, 'global_pool="token"'),
        ({"attn_drop_rate": -1.0}, "between 0 and 1"),
    ],
)
def test_mistakes_are_one_clear_line(overrides, message):
    with pytest.raises(UserError, match=message) as error:
        create_model("volo_d1_224", **overrides)
    assert "\n" not in str(error.value)
