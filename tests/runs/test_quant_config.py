"""`config.quant` and the recipe of QAT, without training."""

import collections
import json

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_tricks import config, data
from vit_jax_tricks.compress import Range, Spec
from vit_jax_tricks.compress.quant import range_store
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.runs import quant_config


OFF = config.defaults()["quant"]


def rules(**changes):
    return quant_config.rules_of(OFF | changes)


def test_off_by_default():
    assert rules() is None


def test_the_standard_rules_with_other_specs():
    _, (kernel, weight), (inputs, activation), rest = rules(
        weights="int4_narrow",
        weight_observer="mse",
        activations="uint8",
        activation_observer="percentile",
        percentile=99.9,
        learned=True,
    )
    assert (kernel, inputs, rest) == ("(.*/)?kernel", "(.*/)?input", (".*", None))
    assert weight == Spec("int4_narrow", per_channel=True, observer="mse", learned=True)
    assert activation == Spec(
        "uint8", symmetric=False, observer="percentile", percentile=99.9, learned=True
    )


def test_own_rules_come_first():
    own = (("head/kernel", {"grid": "int8_narrow", "per_channel": True}), ("a", None))
    first, second, *_ = rules(activations="int8", rules=own)
    assert first == ("head/kernel", Spec("int8_narrow", per_channel=True))
    assert second == ("a", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(weights="int9"), 'config.quant.weights: grid "int9" is unknown'),
        (dict(weights="uint8"), "give int8_narrow"),
        (
            dict(activations="int8", activation_observer="mx"),
            'observer "mx" is unknown',
        ),
        (dict(learned=True), "config.quant.learned=True does nothing"),
        (dict(calibration=9), "config.quant.calibration=9 does nothing"),
        (
            dict(weights="int8", activation_observer="mse"),
            "without config.quant.activat",
        ),
        (dict(activations="int8", percentile=99.0), "activation_observer=percentile"),
        (dict(rules=("abc",)), "is not (regex, None) or (regex, dict(grid="),
        (dict(rules=(("a", {"grd": 1}),)), 'Did you mean "grid"?'),
    ],
)
def test_what_is_wrong_says_so(changes, message):
    with pytest.raises(UserError) as error:
        rules(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize("count", [1, 63, 5000])
def test_calibration_sees_as_many_images_as_it_says(home, count):
    """Batches of 32 once left out what did not fill one: 63 were 32."""
    source = data.build("digits")
    seen = list(
        quant_config.calibration_batches(source, count, mean=(0.5,), std=(0.25,))
    )
    images = np.concatenate([images for images, _ in seen])
    labels = np.concatenate([labels for _, labels in seen])
    assert len(images) == len(labels) == min(count, 1438)
    assert len(np.unique(labels)) == min(count, 10)
    # Each is an image of the training split under its own label, none comes twice.
    pixels = np.round((images * 0.25 + 0.5) * 255).astype(np.uint8)
    there = [source.train[i] for i in range(1438)]
    known = collections.Counter((source.view.test(d).tobytes(), k) for d, k in there)
    pairs = zip(pixels, labels.tolist(), strict=True)
    assert not collections.Counter((p.tobytes(), k) for p, k in pairs) - known


def test_a_range_comes_back():
    affine = Range(jnp.float32(0.5), jnp.int32(3))
    for learned in (False, True):
        spec = Spec("uint8", symmetric=False, learned=learned)
        again = range_store.unpacked(spec, range_store.packed(spec, affine))
        np.testing.assert_allclose(again.scale, affine.scale, rtol=1e-6)
        assert int(again.zero_point) == 3
        assert jnp.issubdtype(again.zero_point.dtype, jnp.integer) != learned


def stacked(*scales):
    kernel = jnp.zeros((len(scales), 2, 2))
    tree = {"params": {"blocks": {"fc1": {"kernel": kernel}}}}
    kept = {"blocks/fc1/input": {"scale": jnp.asarray(scales)}}
    return range_store.with_stored(tree, kept)


def test_ranges_of_stacked_blocks_are_apart_in_files():
    flat = range_store.by_layer(stacked(1.0, 2.0))
    assert {k: float(v) for k, v in flat.items()} == {
        "blocks_0/fc1/input/scale": 1.0,
        "blocks_1/fc1/input/scale": 2.0,
    }
    again = range_store.from_layers(stacked(0.0, 0.0), flat)
    found = range_store.stored(again)["blocks/fc1/input"]["scale"]
    np.testing.assert_array_equal(found, [1.0, 2.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda flat: flat.pop("blocks_1/fc1/input/scale"), "there is no stored range"),
        (lambda flat: flat.update({"x/scale": 1.0}), "belongs to no place"),
        (
            lambda flat: flat.update({"blocks_0/fc1/input/scale": np.zeros(3)}),
            "is of shape (3,)",
        ),
    ],
)
def test_ranges_of_another_model(change, message):
    flat = range_store.by_layer(stacked(1.0, 2.0))
    change(flat)
    with pytest.raises(UserError) as error:
        range_store.from_layers(stacked(0.0, 0.0), flat)
    assert message in str(error.value)


@pytest.fixture
def run(tmp_path):
    """What the recipe reads of a run."""
    values = json.loads(json.dumps(config.defaults()))
    del values["quant"]  # an older run
    values |= {"name": "mine", "steps": 7, "batch_size": 64}
    values["model"] = {"name": "lvvit_t", "mix_token": True}
    values["schedule"] |= {"lr": 1e-3, "lr_per": 128, "name": "cosine_timm"}
    values["augment"] |= {"crop_scale": [0.5, 1.0], "mixup": 0.8, "flip": True}
    values["loss"]["token_labels"] = {"weight": 2.0}
    values["teacher"]["pack"] = "pack"
    fields = {"drop_path_rate": 0.1, "drop_rate": 0.0, "mix_token": True}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.json").write_text(json.dumps({"fields": fields}))
    return tmp_path


def recipe(*args):
    return config.load(f"configs/qat_deit_s.py:{','.join(args)}").to_dict()


def test_the_recipe_follows_the_run(run):
    made = recipe(f"init={run}", "bits=4", "epochs=3")
    assert (made["name"], made["epochs"], made["steps"]) == ("mine_w4a8", 3.0, None)
    assert made["model"] == {
        "name": "lvvit_t",
        "mix_token": False,
        "drop_path_rate": 0.0,
    }
    assert made["augment"]["crop_scale"] == (0.5, 1.0)
    assert (made["augment"]["flip"], made["augment"]["mixup"]) == (True, 0.0)
    assert made["init"] == str(run)
    assert made["teacher"]["sources"] == (str(run),)
    assert made["teacher"]["pack"] is None
    weights = {name: term["weight"] for name, term in made["loss"].items()}
    assert weights == pytest.approx({"classification": 0.1, "distillation": 0.9})
    assert made["schedule"]["lr"] == pytest.approx(0.01 * 1e-3 * 64 / 128)
    assert made["schedule"]["lr_per"] is None
    assert made["quant"]["weights"] == "int4_narrow"
    assert made["quant"]["learned"]
    assert quant_config.rules_of(made["quant"]) is not None
    alone = recipe(f"init={run}", "distil=0")
    assert alone["teacher"]["sources"] == ()
    assert "distillation" not in alone["loss"]
    assert alone["quant"]["weights"] == "int8_narrow"


def test_the_recipe_refuses(run):
    for args, message in (
        (["bits=3"], "bits=3: expected 8 or 4"),
        (["distil=2"], "distil=2.0: expected 0 to 1"),
        ([f"init={run / 'no'}"], "holds no run with a readable config.json"),
    ):
        with pytest.raises(UserError) as error:
            recipe(*args)
        assert message in str(error.value)
    spec = json.loads((run / "model.json").read_text()) | {"quant": OFF}
    (run / "model.json").write_text(json.dumps(spec))
    with pytest.raises(UserError, match="is quantised; give the float run"):
        recipe(f"init={run}")
