"""Whatever trick is on: a stopped run ends alike, and one device equals eight."""

import shutil

import jax
import numpy as np
import pytest
import runs

from vit_jax_tricks import config
from vit_jax_tricks.train import experiment


pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]
MIXED = ("--config.augment.mixup=0.2", "--config.augment.cutmix=1.0")
TRICKS = {
    "regularisers": (
        "--config.model.drop_path_rate=0.3",
        "--config.model.attn_drop_rate=0.1",
        "--config.model.patch_drop_rate=0.25",
        "--config.model.drop_rate=0.1",
        "--config.model.init_values=1e-5",
        "--config.ema.decay=0.9",
    ),
    "smoothed focal": (
        "--config.loss.classification.name=smoothed_focal",
        "--config.loss.classification.smoothing=0.1",
        *MIXED,
    ),
    "sigmoid": (
        "--config.loss.classification.name=sigmoid",
        "--config.loss.classification.target_threshold=0.2",
        *MIXED,
    ),
    "augmentation": (
        "--config.augment.degrees=20.0",
        "--config.augment.translate=0.2",
        "--config.augment.flip=True",
        "--config.augment.erasing=0.5",
        "--config.data.repeats=2",
    ),
    "MixToken": (
        "--config=configs/families.py:family=lv_vit",
        "--config.data.name=digits",
        "--config.model.patch_size=2",
        "--config.model.mix_token=True",
        "--config.model.return_dense=True",
    ),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_resumed_equals_uninterrupted(trick, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    runs.train(*TRICKS[trick], "--config.checkpoint.keep=4", workdir=whole)
    shutil.copytree(whole, cut)
    for step in ("8", "10", "12"):  # as if it had been killed after step 5
        shutil.rmtree(cut / "checkpoints" / step, ignore_errors=True)
    newest = max(int(p.name) for p in (cut / "checkpoints").iterdir())
    assert 0 < newest < 8
    runs.train(*TRICKS[trick], "--config.checkpoint.keep=4", workdir=cut)
    assert runs.leaves(cut, 12) == runs.leaves(whole, 12)
    assert runs.metrics(cut) == runs.metrics(whole)


@pytest.mark.parametrize("trick", TRICKS)
def test_one_device_equals_eight(trick):
    flags = [a.split("=", 1) for a in (*runs.TINY, *TRICKS[trick])]
    spec = dict(flags).get("--config", "configs/digits.py")
    pairs = [(k.removeprefix("--config."), v) for k, v in flags if k != "--config"]
    found = []
    for devices in (jax.devices()[:1], jax.devices()):
        x = experiment.build(config.load(spec, pairs), devices=devices)
        state = x.compile_init()
        with x.train_batches() as batches:
            batch = x.put(next(batches))
        _, metrics = x.compile_train_step()(state, batch, x.place_frozen())
        found.append(jax.device_get(metrics))
    one, eight = found
    assert one.keys() == eight.keys()
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, rtol=1e-4, err_msg=name)
