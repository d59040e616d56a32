"""Whatever trick is on: a stopped run ends alike, and one device equals eight.

`test_no_drift.py` demands that each trick is on in a row.
"""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import shared_programs

from vit_jax_tricks import config, relabel
from vit_jax_tricks.models import registry
from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.train import experiment


pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]
QUANT = (  # the other observers and fields of a Spec, each at a place of its own
    (".*/qkv/kernel", dict(grid="int8_narrow", observer="mean_abs", half_range=True)),
    (".*/qkv/input", dict(observer="moving_average", constant=0.1, symmetric=False)),
    (".*/attn/proj/input", dict(observer="entropy", power_of_two=True)),
    (".*/fc1/kernel", dict(grid="float8_e4m3fn", per_channel=True)),
    (".*/fc1/input", dict(grid="float8_e5m2", observer="mse")),
    (
        ".*/fc2/input",
        dict(grid="uint8", observer="fixed", fixed=(-1.0, 4.0), symmetric=False),
    ),
)
# {run} and {pack} are the folders of these fixtures.
TRICKS = {
    "regularisers": (
        "--config.model.drop_path_rate=0.3",
        "--config.model.drop_path_decay=constant",
        "--config.model.attn_drop_rate=0.1",
        "--config.model.proj_drop_rate=0.1",
        "--config.model.pos_drop_rate=0.1",
        "--config.model.patch_drop_rate=0.25",
        "--config.model.drop_rate=0.1",
        "--config.model.init_values=1e-5",
        "--config.model.block_heads=(1,)",
        "--config.model.block_hidden=(24,)",
        "--config.augment.multi_scale=(4, 8)",
        "--config.augment.multi_scale_every=2",
        "--config.loss.classification.name=focal",
        "--config.loss.classification.smoothing=0.0",
        "--config.loss.classification.alpha=0.5",
        "--config.loss.classification.gamma=1.5",
        "--config.ema.decay=0.9",
        "--config.ema.warmup=False",
        "--config.optimizer.name=adamw",
        "--config.optimizer.b1=0.8",
        "--config.optimizer.b2=0.95",
        "--config.optimizer.eps=1e-6",
        "--config.optimizer.layer_decay=0.8",
        "--config.optimizer.clip_mode=adaptive",
        "--config.optimizer.rules=(('head/.*', {'lr_mult': 0.5}),)",
        "--config.schedule.name=cosine_timm",
        "--config.schedule.per_epoch=True",
        "--config.schedule.lag_epochs=1",
        "--config.schedule.lr_per=64",
        "--config.schedule.warmup_lr=1e-4",
        "--config.schedule.min_lr=1e-5",
    ),
    "smoothed focal": (
        "--config.model.name=deit_tiny_patch16_224",
        "--config.loss.classification.name=smoothed_focal",
        "--config.loss.classification.smoothing=0.1",
        "--config.loss.classification.focal_weight=0.5",
        "--config.loss.classification.weight=0.5",
        "--config.loss.classification.dist_weight=0.0",
        "--config.loss.distillation.tau=2.0",
        "--config.loss.distillation.scaling=deit",
        "--config.loss.token_distillation.name=mse",
        "--config.loss.keep_ratio.ratios=(0.5,)",
        "--config.loss.keep_ratio.per_batch=True",
        "--config.teacher.sources={run}",
        "--config.augment.mixup=0.2",
        "--config.augment.cutmix=1.0",
        "--config.augment.auto_augment=rand-m9-mstd0.5-t3a",
        "--config.optimizer.name=lamb",
        "--config.optimizer.trust_clip=True",
        "--config.optimizer.always_adapt=True",
        "--config.schedule.name=cosine_prefix",
        "--config.schedule.cooldown_epochs=0.02",
    ),
    "sigmoid": (
        "--config.loss.classification.name=sigmoid",
        "--config.loss.classification.target_threshold=0.2",
        "--config.loss.classification.sum_classes=True",
        "--config.augment.mixup=0.2",
        "--config.augment.cutmix=1.0",
        "--config.augment.mix_mode=elem",
        "--config.augment.mix_prob=0.7",
        "--config.augment.switch_prob=0.3",
        "--config.augment.auto_augment=trivial",
        "--config.augment.interpolation=nearest",
        "--config.optimizer.name=sgd",
        "--config.optimizer.momentum=0.8",
        "--config.optimizer.nesterov=True",
        "--config.schedule.name=linear",
        "--config.quant.weights=int4_narrow",
        "--config.quant.activations=uint8",
        "--config.quant.weight_observer=mse",
        "--config.quant.activation_observer=percentile",
        "--config.quant.percentile=99.9",
        "--config.quant.calibration=32",
        "--config.quant.learned=True",
        f"--config.quant.rules={QUANT}",
    ),
    "augmentation": (
        "--config.augment.crop=random_resized",
        "--config.augment.crop_scale=(0.5, 1.0)",
        "--config.augment.crop_ratio=(0.9, 1.1)",
        "--config.augment.interpolation=bilinear",
        "--config.augment.auto_augment=augmix-m3-w2-d1",
        "--config.augment.color_jitter=0.4",
        "--config.augment.hue=0.1",
        "--config.augment.jitter_prob=0.5",
        "--config.augment.degrees=20.0",
        "--config.augment.translate=0.2",
        "--config.augment.scale=(0.9, 1.1)",
        "--config.augment.shear=5.0",
        "--config.augment.pad=1",
        "--config.augment.flip=True",
        "--config.augment.erasing=0.5",
        "--config.augment.erasing_count=2",
        "--config.augment.mix_mode=pair",
        "--config.augment.mix_first=True",
        "--config.data.repeats=2",
        "--config.accumulate=2",
        "--config.loss.classification.name=focal_pt",
        "--config.loss.classification.smoothing=0.0",
        "--config.schedule.name=constant",
    ),
    "MixToken": (
        "--config=configs/families.py:family=lv_vit",
        "--config.data.name=digits",
        "--config.model.patch_size=2",
        "--config.model.mix_token=True",
        "--config.model.return_dense=True",
        "--config.loss.classification.name=focal_modulated",
        "--config.loss.classification.weight=0.5",
        "--config.loss.classification.dense_weight=0.0",
        "--config.loss.token_labels.name=kl",
        "--config.loss.token_labels.class_weight=0.5",
        "--config.loss.token_labels.dense_weight=0.5",
        "--config.loss.token_labels.correct=True",
        "--config.teacher.pack={pack}",
        "--config.teacher.smoothing=0.1",
        "--config.teacher.as_released=True",
        "--config.augment.crop=simple",
        "--config.augment.auto_augment=3a",
        "--config.augment.erasing=0.5",
        "--config.augment.erasing_mode=const",
        "--config.optimizer.name=adam",
    ),
    "CoAtNet": (
        "--config=configs/coatnet_0.py:data=digits",
        "--config.data.crop_pct=0.875",
        "--config.data.resize=area",
        "--config.model.block_type=('C', 'T')",
        "--config.model.depths=(1, 1)",
        "--config.model.embed_dim=(8, 16)",
        "--config.model.stem_width=8",
        "--config.model.transformer_dim_head=8",
        "--config.model.transformer_rel_pos_type=mlp",
        "--config.model.transformer_rel_pos_dim=8",
        "--config.model.transformer_rel_pos_drop=0.1",
        "--config.model.transformer_attn_drop=0.1",
        "--config.model.transformer_proj_drop=0.1",
        "--config.model.transformer_init_values=0.1",
        "--config.model.conv_init_values=0.1",
        "--config.loss.classification.name=focal_of_cross_entropy",
        "--config.loss.r_drop.alpha=0.3",
        "--config.loss.classification.smoothing=0.0",
        "--config.augment.crop=random_or_center",
        "--config.augment.auto_augment=none",
        "--config.augment.erasing=0.5",
        "--config.augment.erasing_mode=rand",
        "--config.optimizer.name=lion",
    ),
}


class TokenDropping(VisionTransformer):
    """Reports the patches with a positive first channel as kept."""

    def classify(self, tokens, features, train):
        logits, aux = super().classify(tokens, features, train)
        patches = tokens[:, self.prefix_tokens :]
        kept = jnp.clip(patches[:, :, 0], 0.0, 1.0)
        keep = kept + jax.lax.stop_gradient(jnp.ceil(kept) - kept)
        return logits, {**aux, "patch_tokens": patches, "keep": keep[None]}


@pytest.fixture(scope="module")
def pack(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("pack") / "pack"
    args = [f"--teacher={run}", "--data=digits", f"--out={out}", "--top=10"]
    assert relabel.main(args) == 0
    return out


@pytest.fixture
def flags(trick, request, monkeypatch):
    """The flags of a row, for a run that takes them."""
    given = TRICKS[trick]
    if any(flag.startswith("--config.loss.keep_ratio") for flag in given):
        name = "deit_tiny_patch16_224"
        entry = dataclasses.replace(registry.lookup(name), family=TokenDropping)
        monkeypatch.setitem(registry._ENTRIES, name, entry)
    monkeypatch.setattr(runs, "TINY", tiny(given))
    for name in ("run", "pack"):
        if any(f"{{{name}}}" in flag for flag in given):
            folder = str(request.getfixturevalue(name))
            given = [flag.replace(f"{{{name}}}", folder) for flag in given]
    return given


def tiny(flags):
    """`runs.TINY`, without a ViT's sizes if the model has stages of its own."""
    staged = any("depths" in flag or "model.layers" in flag for flag in flags)
    return [f for f in runs.TINY if not (staged and f.startswith("--config.model."))]


def split(flags):
    """The config file and the pairs that `flags` set, after the sizes of a tiny run."""
    pairs = dict(
        flag.removeprefix("--").split("=", 1) for flag in (*tiny(flags), *flags)
    )
    spec = pairs.pop("config", "configs/digits.py")
    return spec, [(key.removeprefix("config."), v) for key, v in pairs.items()]


@pytest.mark.parametrize("trick", TRICKS)
def test_resumed_equals_uninterrupted(flags, programs, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with shared_programs.shared(programs):  # the resumed run makes its own
        runs.train(*flags, "--config.checkpoint.keep=4", workdir=whole)
    shutil.copytree(whole, cut)
    for step in ("8", "10", "12"):  # as if it had been killed after step 5
        shutil.rmtree(cut / "checkpoints" / step, ignore_errors=True)
    newest = max(int(p.name) for p in (cut / "checkpoints").iterdir())
    assert 0 < newest < 8
    runs.train(*flags, "--config.checkpoint.keep=4", workdir=cut)
    assert runs.leaves(cut, 12) == runs.leaves(whole, 12)
    assert runs.metrics(cut) == runs.metrics(whole)


# Convolutions take longest to compile.
@pytest.mark.parametrize("trick", [name for name in TRICKS if name != "CoAtNet"])
def test_one_device_equals_eight(flags, sharing):
    found = []
    for devices in (jax.devices()[:1], jax.devices()):
        x = experiment.build(config.load(*split(flags)), devices=devices)
        state = x.compile_init()
        with x.train_batches() as batches:
            batch = x.put(next(batches))
        _, metrics = x.compile_train_step()(state, batch, x.place_frozen())
        found.append(jax.device_get(metrics))
    one, eight = found
    assert one.keys() == eight.keys()
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, rtol=1e-4, err_msg=name)
