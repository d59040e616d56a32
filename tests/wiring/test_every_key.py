"""Every key of configs/common.py has a test that it acts as its function says."""

from pathlib import Path

import pytest

from configs import common
from vit_jax_tricks import main
from vit_jax_tricks.train import loop


TESTS = Path(__file__).parent.parent
AUGMENT = "test_augment_keys.py::test_the_compiled_step_augments_as_the_keys_say"
DATA = "test_data_keys.py"
LOSS = "test_loss_keys.py::test_the_step_s_loss_is_the_formula"
PACK = "test_pack_keys.py::test_a_pack_labels_the_step"
QUANT = "test_quant_keys.py::test_the_rules_are_those_of_the_keys"
RATE = "test_optimizer_keys.py::test_the_rate_of_each_step"
RUN = "test_run_keys.py::test_lines_and_evaluations_come_when_the_keys_say"
SCALES = "test_multi_scale_keys.py"
UPDATE = "test_update_keys.py::test_a_step_is_its_parts"

# The file and test that would fail were a key ignored; `*` is the rest of a section.
CASES = {
    "name": "test_every_key.py::test_the_name_is_that_of_the_folder",
    "task": "../tasks/test_toy_task.py::test_a_config_names_its_task",
    "seed": "test_loss_keys.py::test_the_seed_draws_parameters_and_names_every_stream",
    "epochs": "test_loss_keys.py::test_the_length_of_a_run",
    "steps": "test_loss_keys.py::test_the_length_of_a_run",
    "batch_size": "test_run_keys.py::test_a_line_has_the_means_since_the_last",
    "accumulate": UPDATE,
    "dtype": "test_loss_keys.py::test_the_model_computes_in_the_type",
    "resume": "test_run_keys.py::test_resume_never_and_required",
    "init": "test_pack_keys.py::test_the_first_weights_are_those_of_the_file",
    "model.*": UPDATE,
    "data.name": f"{DATA}::test_splits_and_place_of_a_tfds_data_set",
    "data.image_size": f"{DATA}::test_image_size_and_resize",
    "data.train_split": f"{DATA}::test_splits_and_place_of_a_tfds_data_set",
    "data.test_split": f"{DATA}::test_splits_and_place_of_a_tfds_data_set",
    "data.data_dir": f"{DATA}::test_splits_and_place_of_a_tfds_data_set",
    "data.skip_broken": f"{DATA}::test_broken_pictures_are_left_out",
    "data.split_seed": f"{DATA}::test_the_split_is_that_of_its_hash",
    "data.test_fraction": f"{DATA}::test_the_split_is_that_of_its_hash",
    "data.examples": f"{DATA}::test_fewer_examples_are_a_fixed_choice",
    "data.workers": f"{DATA}::test_so_many_processes_decode",
    "data.train_crop": f"{DATA}::test_the_central_part_is_crop_pct_of_the_side",
    "data.crop_scale": f"{DATA}::test_random_crops_are_as_large_and_wide",
    "data.crop_ratio": f"{DATA}::test_random_crops_are_as_large_and_wide",
    "data.crop_pct": f"{DATA}::test_the_central_part_is_crop_pct_of_the_side",
    "data.resize": f"{DATA}::test_image_size_and_resize",
    "data.repeats": f"{DATA}::test_repeats_come_in_a_row",
    "augment.*": AUGMENT,
    "augment.multi_scale": f"{SCALES}::test_a_step_is_its_parts",
    "augment.multi_scale_every": f"{SCALES}::test_the_size_is_of_the_seed_and_the_step",
    "loss.classification.name": LOSS,
    "loss.classification.weight": LOSS,
    "loss.classification.smoothing": LOSS,
    "loss.classification.dense_weight": UPDATE,
    "loss.classification.dist_weight": LOSS,
    "loss.classification.target_threshold": LOSS,
    "loss.classification.sum_classes": LOSS,
    "loss.classification.focal_weight": LOSS,
    "loss.classification.alpha": LOSS,
    "loss.classification.gamma": LOSS,
    "teacher.sources": "test_pack_keys.py::test_teachers_that_are_named_are_asked",
    "teacher.pack": PACK,
    "teacher.smoothing": PACK,
    "teacher.as_released": PACK,
    "quant.*": QUANT,
    "quant.calibration": "test_quant_keys.py::test_ranges_are_those_of_all",
    "optimizer.name": UPDATE,
    "optimizer.weight_decay": UPDATE,
    "optimizer.grad_clip": UPDATE,
    "optimizer.clip_mode": "test_optimizer_keys.py::test_sgd_with_its_keys",
    "optimizer.layer_decay": UPDATE,
    "optimizer.b1": UPDATE,
    "optimizer.b2": UPDATE,
    "optimizer.eps": UPDATE,
    "optimizer.momentum": "test_optimizer_keys.py::test_sgd_with_its_keys",
    "optimizer.nesterov": "test_optimizer_keys.py::test_sgd_with_its_keys",
    "optimizer.trust_clip": "test_optimizer_keys.py::test_lamb_with_its_keys",
    "optimizer.always_adapt": "test_optimizer_keys.py::test_lamb_with_its_keys",
    "optimizer.rules": "test_optimizer_keys.py::test_sgd_with_its_keys",
    "schedule.*": RATE,
    "ema.*": "test_update_keys.py::test_the_average_moves_by_its_rate",
    "eval.epochs": RUN,
    "eval.batch_size": "test_loss_keys.py::test_evaluation_counts_each_example_once",
    "checkpoint.*": "test_run_keys.py::test_the_newest_checkpoints_and_the_best",
    "log.steps": RUN,
    "log.tensorboard": "test_run_keys.py::test_event_files_are_written",
    "mesh.*": "test_loss_keys.py::test_the_mesh_has_the_axes_of_the_config",
}


def keys(section, prefix=""):
    for name, value in section.items():
        inner = hasattr(value, "items")
        yield from keys(value, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]


EVERY = list(keys(common.get_config()))


@pytest.mark.parametrize("key", EVERY)
def test_every_key_has_a_test_that_names_it(key):
    section, _, name = key.rpartition(".")
    assert key in CASES or f"{section}.*" in CASES, f"config.{key} has no test"
    file, _, test = CASES.get(key, CASES.get(f"{section}.*", "")).partition("::")
    text = (Path(__file__).parent / file).read_text()
    assert f"def {test}" in text
    assert name in text


def test_no_case_is_of_a_key_that_is_gone():
    sections = {key.rpartition(".")[0] for key in EVERY}
    for case in CASES:
        assert case in EVERY or case.removesuffix(".*") in sections, case


def test_the_name_is_that_of_the_folder(tmp_path, monkeypatch):
    """Without --workdir a run is in runs/NAME."""
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "run", lambda config, workdir, *_: seen.append(workdir))
    flags = ["--config=configs/digits.py", "--config.name=mine"]
    assert main.main(flags) == 0
    assert [str(path) for path in seen] == [str(tmp_path / "runs" / "mine")]
