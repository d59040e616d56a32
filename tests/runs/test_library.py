"""Runs from Python: typed arguments in, results out, and nothing printed."""

import json

import numpy as np
import PIL.Image
import pytest
import runs as tiny
import weight_files
from safetensors.numpy import save_file

from vit_jax_tricks import runs
from vit_jax_tricks.errors import Argument, UserError, about, spelled
from vit_jax_tricks.runs import data as run_data


def test_a_run_is_measured_as_it_was_in_training(run, capsys):
    trained = runs.load(run, both=True)
    found = runs.evaluate(trained)
    last = [line for line in tiny.metrics(run) if "test/accuracy" in line][-1]
    for key in ("accuracy", "loss", "accuracy_top5", "accuracy_ema"):
        assert found[key] == pytest.approx(last[f"test/{key}"], abs=1e-6)
    assert found["count"] == 359
    assert set(trained.variables) == {"", "_ema"}
    assert capsys.readouterr() == ("", "")


def test_an_array_is_classified_like_its_file(run, tmp_path, capsys):
    pixels = weight_files.smooth_image(31, 43)[..., :1]
    PIL.Image.fromarray(pixels[..., 0]).save(tmp_path / "a.png")
    trained = runs.load(run)
    one, two = runs.predict(trained, [tmp_path / "a.png", pixels], top=3)
    assert np.array_equal(one.pixels, two.pixels)
    assert one.top == two.top
    assert len(one.top) == 3
    with pytest.raises(UserError, match=r"expected uint8 \[h, w, 1\]"):
        next(runs.predict(trained, [pixels.repeat(3, axis=2)]))
    assert capsys.readouterr() == ("", "")


def test_keys_newer_than_the_run_have_their_defaults(run, tmp_path):
    copy = tiny.copied(run, tmp_path)
    values = json.loads((copy / "config.json").read_text())
    del values["data"]["repeats"], values["data"]["split_seed"]
    (copy / "config.json").write_text(json.dumps(values))
    assert run_data.of_run(copy) == run_data.of_run(run)
    values["data"]["crop_pct"] = "most"
    (copy / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"config.data.crop_pct='most': expected float"):
        run_data.of_run(copy)


def test_errors_name_arguments(run, tmp_path):
    save_file({"a": np.zeros(1, "f4")}, tmp_path / "w.safetensors")
    for message, options in {
        "has its own classes; leave num_classes out.": {"num_classes": 3},
        "not an override; give num_classes=3.": {"overrides": {"num_classes": 3}},
        "resize=cubic: unknown.": {"resize": "cubic"},
    }.items():
        with pytest.raises(UserError) as caught:
            runs.load(run, **options)
        assert message in str(caught.value)
        assert "--" not in str(caught.value)
    with pytest.raises(UserError, match=r"weights, not a run; also give model=NAME"):
        runs.load(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"none does not exist; give the workdir of a"):
        runs.load(tmp_path / "none")
    with pytest.raises(UserError, match=r'split=val: unknown. Did you mean "all"'):
        runs.evaluate(run, split="val")


def test_callers_spell_arguments_as_they_were_typed():
    def fail():
        raise UserError("leave ", Argument("ema"), " and ", Argument("model"), " out.")

    with pytest.raises(UserError) as caught, about("a place"):
        fail()
    assert str(caught.value) == "a place: leave ema and model out."
    with pytest.raises(UserError) as caught, spelled("--", model="-m"):
        fail()
    assert str(caught.value) == "leave --ema and -m out."
