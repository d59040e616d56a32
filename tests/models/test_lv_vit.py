"""Properties of LV-ViT beyond its reference values in evaluation."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import lvvit_goldens
import numpy as np
import pytest
from model_goldens import assert_close, jit_once, macs
from small_models import apply, fill

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model, stack_blocks, unstack_blocks
from vit_jax_tricks.objectives import Objective
from vit_jax_tricks.objectives.term import Readings
from vit_jax_tricks.pretrained.export import reference_arrays
from vit_jax_tricks.pretrained.load import load_arrays
from vit_jax_tricks.pretrained.resize import resize_positions
from vit_jax_tricks.sharding import make_mesh, state_shardings


pytestmark = pytest.mark.slow


TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
PLAIN = {"p_emb": 1, "mix_token": False, "return_dense": False}
KEY = jax.random.key(0)


def make(**overrides):
    return create_model("lvvit_s", 10, **TINY | overrides)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (8, 32, 32, 3))


@pytest.fixture(scope="module")
def variables(images):
    return fill(make(), images)


def check_training(case, **more):
    """Both heads and the stem's statistics for the reference's box; eval heads."""
    model, variables, images, manifest, arrays = case.build("float32", **more)
    x0, y0, x1, y1 = manifest["train_box_bbx1_bby1_bbx2_bby2"]  # bbx counts rows
    box = jnp.asarray([x0, x1, y0, y1])
    run = partial(model.apply, train=True, mutable=["batch_stats"])
    (logits, aux), state = jit_once(run)(variables, images, box=box)
    assert_close(logits, arrays["train_x_cls"], 2e-5)
    dense, expected = aux["logits_aux"], arrays["train_x_aux"]
    at = arrays["train_x_aux_tokens"]
    assert_close(dense[:, at, : expected.shape[-1]], expected, 2e-5)
    sums = np.asarray(dense, np.float64).sum(-1)
    classes = dense.shape[-1]
    assert_close(sums, arrays["train_x_aux_sum_per_token"], 2e-5 * classes)
    for norm in ("bn1", "bn3"):
        stats = state["batch_stats"]["patch_embed"][norm]
        for name in ("mean", "var"):
            assert_close(stats[name], arrays[f"after_{norm}_running_{name}"], 2e-5)
    rows, columns = model.grid
    share = 1 - (x1 - x0) * (y1 - y0) / (rows * columns)
    assert float(aux["mix_lam"]) == pytest.approx(share)
    _, aux = jit_once(model.apply)(variables, images)
    assert_close(aux["logits_cls"], arrays["eval_x_cls"], 2e-5)
    dense = aux["logits_aux"]
    if "eval_x_aux" in arrays:
        assert_close(dense, arrays["eval_x_aux"], 2e-5)
    else:
        first = arrays["eval_x_aux_first_tokens"]
        assert_close(dense[:, : first.shape[1], : first.shape[2]], first, 2e-5)
        assert_close(dense.max(1), arrays["eval_x_aux_max"], 2e-5)


@pytest.mark.parametrize("case", lvvit_goldens.SMALL, ids=str)
def test_training_with_a_box_is_the_reference_s(case):
    check_training(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", lvvit_goldens.FULL, ids=str)
def test_full_training_with_a_box_is_the_reference_s(case):
    check_training(case, scan=True)


def test_evaluation_adds_half_of_the_best_token(variables, images):
    logits, aux = apply(make(), variables, images)
    expected = aux["logits_cls"] + 0.5 * aux["logits_aux"].max(1)
    chex.assert_trees_all_close(logits, expected, atol=1e-6, rtol=0)
    assert "mix_box" not in aux


def test_each_step_draws_a_box_and_only_in_training(variables, images):
    model = make()
    keep = ["batch_stats"]
    steps = [
        apply(model, variables, images, seed, train=True, mutable=keep)[0]
        for seed in range(4)
    ]
    assert len({tuple(map(int, aux["mix_box"])) for _, aux in steps}) > 1
    logits, aux = steps[0]
    chex.assert_trees_all_equal(logits, aux["logits_cls"])
    given = partial(model.apply, train=True, mutable=keep)
    (again, _), _ = jit_once(given)(variables, images, box=aux["mix_box"])
    chex.assert_trees_all_close(again, logits, atol=1e-5, rtol=0)


def test_a_mesh_changes_neither_values_nor_statistics(variables, images):
    model = make()
    run = partial(model.apply, train=True, mutable=["batch_stats"])
    box = jnp.asarray([1, 3, 0, 2])
    (alone, _), state = jit_once(run)(variables, images, box=box)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        placed = jax.device_put(variables, state_shardings(variables, mesh))
        (spread, _), other = jit_once(run)(placed, images, box=box)
    np.testing.assert_allclose(spread, alone, atol=1e-5)
    chex.assert_trees_all_close(dict(other), dict(state), atol=1e-5)


def test_one_step_of_the_objective_moves_both_heads(variables, images):
    term = {"classification": {"name": "softmax", "weight": 1.0, "smoothing": 0.1}}
    objective, model = Objective(term), make()
    labels = jax.nn.one_hot(jnp.arange(8), 10)

    def loss(params):
        (logits, aux), _ = model.apply(
            {**variables, "params": params},
            images,
            train=True,
            rngs={"dropout": KEY},
            mutable=["batch_stats"],
        )
        readings = Readings(logits=logits, aux=aux, labels=labels)
        return objective(readings)[0].mean()

    grads = jit_once(jax.grad(loss))(variables["params"])
    chex.assert_tree_all_finite(grads)
    assert all(leaf.any() for leaf in jax.tree.leaves(jax.device_get(grads)))


def test_scan_and_remat_equal_the_unrolled_model_in_training(images):
    model = make(**PLAIN, order=("tr", "tr", "mha", "ffn"))
    variables = fill(model, images)

    def loss(params, model):
        return (model.apply({"params": params}, images, train=True)[0] ** 2).sum()

    grad = jit_once(jax.value_and_grad(loss), static_argnums=1)
    params = variables["params"]
    value, grads = grad(params, model)
    scanned = model.clone(scan=True, remat=True)
    also, stacked = grad(stack_blocks(params), scanned)
    chex.assert_trees_all_close(value, also, rtol=1e-5)
    chex.assert_trees_all_close(unstack_blocks(stacked), grads, atol=1e-4, rtol=1e-4)


def test_a_block_is_an_attention_block_and_a_perceptron_block(images):
    """Exactly so for skip_lam 1; else their norms see inputs skip_lam times larger."""
    both = make(**PLAIN, depth=1, skip_lam=1.0)
    variables = fill(both, images)
    block = variables["params"].pop("blocks_0")
    parts = {
        "blocks_0": {k: block[k] for k in ("norm1", "attn")},
        "blocks_1": {k: block[k] for k in ("norm2", "mlp")},
    }
    halves = both.clone(order=("mha", "ffn"))
    split = {"params": variables["params"] | parts}
    variables["params"]["blocks_0"] = block
    for lam, apart in ((1.0, False), (3.0, True)):
        one = apply(both.clone(skip_lam=lam), variables, images)[0]
        two = apply(halves.clone(skip_lam=lam), split, images)[0]
        chex.assert_trees_all_close(one, two, atol=1e-4, rtol=0)
        assert bool((one != two).any()) is apart


def test_skip_lam_divides_the_branches(images):
    model = make(**PLAIN, depth=1, order=("ffn",), skip_lam=1.0)
    variables = fill(model, images)
    alone = make(**PLAIN, depth=0)
    rest = {k: v for k, v in variables["params"].items() if "blocks" not in k}
    norm = {"scale": jnp.ones(16), "bias": jnp.zeros(16)}
    rest, params = rest | {"norm": norm}, variables["params"] | {"norm": norm}
    params["blocks_0"]["mlp"]["fc2"]["kernel"] *= 0
    params["blocks_0"]["mlp"]["fc2"]["bias"] = jnp.arange(16.0)
    tokens = apply(alone, {"params": rest}, images)[1]["tokens"]
    halved = apply(model.clone(skip_lam=2.0), {"params": params}, images)[1]["tokens"]
    params["blocks_0"]["mlp"]["fc2"]["bias"] /= 2
    full = apply(model, {"params": params}, images)[1]["tokens"]
    chex.assert_trees_all_close(halved, full, atol=1e-6)
    assert jnp.abs(full - tokens).max() > 0.1


@pytest.mark.parametrize("decay", ["linear", "fix"])
def test_fixed_drop_path_also_drops_the_first_block(decay, images):
    model = make(**PLAIN, drop_path_rate=1.0, drop_path_decay=decay)
    variables = fill(model, images)
    trained = apply(model, variables, images, train=True)[1]["tokens"]
    rest = {k: v for k, v in variables["params"].items() if "blocks" not in k}
    none = apply(make(**PLAIN, depth=0), {"params": rest}, images)[1]["tokens"]
    same = bool(jnp.abs(trained - none).max() < 1e-5)
    assert same is (decay == "fix")


def test_initialisation_is_the_reference_s():
    """PyTorch's default for convolutions, N(0, 0.02) for the rest."""
    model = create_model("lvvit_s", depth=1, img_size=32)
    params = jit_once(model.init)(KEY, jnp.zeros((1, 32, 32, 3)))["params"]
    for name, fan_in in (("conv1", 147), ("conv2", 576), ("proj", 4096)):
        kernel = params["patch_embed"][name]["kernel"]
        assert kernel.std() == pytest.approx((3 * fan_in) ** -0.5, rel=0.02)
        assert jnp.abs(kernel).max() <= fan_in**-0.5
    assert "bias" not in params["patch_embed"]["conv1"]
    for kernel in (
        params["blocks_0"]["attn"]["qkv"]["kernel"],
        params["aux_head"]["kernel"],
        params["pos_embed"],
        params["cls_token"],
    ):
        assert kernel.std() == pytest.approx(0.02, rel=0.1)


def test_positions_are_resampled_as_tokenlabeling_does_and_both_heads_drawn(variables):
    weights = reference_arrays(variables, "lvvit_s")
    large = create_model("lvvit_s", 7, **TINY | {"img_size": 64})
    found, report = load_arrays(large, weights)
    table = variables["params"]["pos_embed"]
    expected = resize_positions(table, (8, 8), prefix=1, plain=True)
    np.testing.assert_array_equal(found["params"]["pos_embed"], expected)
    assert any("pos_embed" in entry for entry in report.resized)
    heads = {
        f"params/{h}/{p}" for h in ("head", "aux_head") for p in ("kernel", "bias")
    }
    assert set(report.reset) == heads


def test_head_dim_and_the_wide_stem(images):
    model = make(head_dim=5, p_emb="4_2_128")
    shapes = jax.eval_shape(model.init, KEY, images)["params"]
    assert shapes["blocks_0"]["attn"]["qkv"]["kernel"].shape == (16, 3, 2, 5)
    assert shapes["blocks_0"]["attn"]["proj"]["kernel"].shape == (2, 5, 16)
    assert shapes["patch_embed"]["conv3"]["kernel"].shape == (3, 3, 128, 128)


@pytest.mark.parametrize(
    ("name", "size", "count", "giga"),
    [
        ("lvvit_s", 384, 26_297_744, 21.896),
        ("lvvit_m", 224, 55_830_544, 12.678),
        ("lvvit_m", 384, 56_025_104, 41.638),
        ("lvvit_m", 448, 56_131_600, 59.994),
        ("lvvit_l", 224, 150_021_968, 34.637),
        ("lvvit_l", 448, 150_473_552, 155.116),
        ("lvvit_l", 512, 150_657_872, 211.617),
    ],
)
def test_published_sizes(name, size, count, giga):
    model = create_model(name, img_size=size, scan=True)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    params = jax.eval_shape(model.init, KEY, images)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert macs(model) / 1e9 == pytest.approx(giga, abs=6e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"return_dense": False}, "mix_token=True needs return_dense=True"),
        ({"p_emb": "4_4"}, "4_2, 4_2_128, or 1"),
        ({"p_emb": 2}, "p_emb=2"),
        ({"patch_size": 1}, "patch_size=1 must be even"),
        ({"img_size": 36}, "img_size=32"),
        ({"num_heads": 3}, "not divisible by num_heads=3"),
        ({"order": ["tr", "conv"]}, "order has 'conv'"),
        ({"drop_path_decay": "constant"}, "linear, fix"),
        ({"skip_lam": 0.0}, "skip_lam=0.0 must be positive"),
        ({"drop_path_rate": 1.5}, "between 0 and 1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
    ],
)
def test_mistakes_are_one_clear_line(overrides, message):
    with pytest.raises(UserError, match=message) as error:
        make(**overrides)
    assert "\n" not in str(error.value)
