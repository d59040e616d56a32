"""Body of the command `evaluate`: any trained model on any data."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax_tricks import config, data, sharding
from vit_jax_tricks.commands.command import Arguments
from vit_jax_tricks.console import Bar
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.runs.model_flags import Trained, load
from vit_jax_tricks.runs.model_inputs import model_inputs
from vit_jax_tricks.runs.scores import eval_step, means, tally


SPLITS = {"test": ("test",), "train": ("train",), "all": ("train", "test")}
Pairs = list[tuple[str, str]]  # keys of a config's data section, as typed


@dataclass(frozen=True)
class Evaluation:
    """Data on a mesh of all devices."""

    data: data.Data
    mesh: Mesh
    eval_batch_size: int


def measure(given: Arguments) -> dict[str, Any]:
    """Runs what a command line requests: its facts, then the metrics of `evaluate`.

    Raises:
      UserError: flags that contradict one another, data with other classes, and as
        `load_pretrained` and `data.build`.
    """
    splits = SPLITS[given.choice("split", tuple(SPLITS), "test")]
    if given.get("workdir") is None and given.get("data") is None:
        raise UserError(
            "give --data=SPEC: digits, digit_scenes/64, folder:PATH or tfds:NAME."
        )
    trained = load(given, resize="area", both=True)
    evaluation = opened(trained, given)
    totals = sums(evaluation, trained, splits)
    return {
        "weights": trained.source,
        "data": evaluation.data.name,
        "count": int(next(iter(totals.values()))["count"]),
        **means(totals, evaluation.data.num_classes),
    }


def opened(trained: Trained, given: Arguments) -> Evaluation:
    """Data that fits the model, with the batch size of --batch_size."""
    mesh = sharding.make_mesh()
    batch_size = given.whole("batch_size", 256) or 256
    pieces = sharding.batch_divisor(mesh)
    source = open_data(trained, given)
    check_classes(source, trained)
    return Evaluation(source, mesh, -(-batch_size // pieces) * pieces)


def open_data(trained: Trained, given: Arguments) -> data.Data:
    """The run's own data, or --data with the model's preprocessing."""
    own = str(config.config_dir() / "digits.py")
    section = config.load(own, data_pairs(trained, given))
    return data.build(**section.data)


def data_pairs(trained: Trained, given: Arguments) -> Pairs:
    """The config keys, `data.name` and so on, for what `open_data` opens."""
    workdir, name = given.get("workdir"), given.get("data")
    pairs = run_pairs(Path(workdir)) if name is None else _pairs(trained, name)
    if name is None and given.get("resize"):
        pairs.append(("resize", given.get("resize")))
    pairs += given.sections["data"]
    return [(f"data.{key}", text) for key, text in pairs]


def run_pairs(workdir: Path) -> Pairs:
    """The data section of a run's config, as it would be typed."""
    try:
        section = config.recorded(workdir)["data"]
        return [(key, _typed(value)) for key, value in section.items()]
    except (UserError, LookupError, AttributeError) as error:
        raise UserError(
            f"{workdir} holds no readable config.json; give --data=SPEC."
        ) from error


def _typed(value: Any) -> str:
    return str(tuple(value) if isinstance(value, list) else value)


def _pairs(trained: Trained, name: str) -> Pairs:
    view = trained.spec.view
    h, w = view.size
    if h != w:
        raise UserError(
            f"the model takes {h}x{w} images, but data is read as squares; give "
            f"--model.img_size={max(h, w)}."
        )
    crop = "center" if view.train_crop == "random_resized" else view.train_crop
    pairs = [("name", name), ("image_size", str(h)), ("train_crop", crop)]
    if crop != "whole":
        pairs.append(("crop_pct", str(view.crop_pct)))
    return [*pairs, ("resize", view.resize)]


def check_classes(source: data.Data, trained: Trained) -> None:
    """Raises UserError unless the model's classes are the data's."""
    classes = trained.spec.fields["num_classes"]
    if source.num_classes != classes:
        raise UserError(
            f"{source.name} has {source.num_classes} classes, but the model has "
            f"{classes}; give the data that it was trained on."
        )
    known = trained.spec.class_names
    if known is not None and tuple(source.class_names) != known:
        raise UserError(
            f"{source.name} has other classes than the run was trained on; give data "
            f"with {', '.join(known[:3])}, ..."
        )
    channels = trained.spec.view.channels
    if source.channels != channels:
        raise UserError(
            f"{source.name} has {source.channels} channel(s), but the model takes "
            f"{channels}; give --model.in_chans={source.channels}."
        )


def sums(
    evaluation: Evaluation, trained: Trained, splits: Sequence[str]
) -> dict[str, dict[str, float]]:
    """The sums of `evaluate.tally` for each of the model's variables, with a bar."""
    whole = NamedSharding(evaluation.mesh, PartitionSpec())
    variables = jax.device_put(trained.variables, whole)
    spec = trained.spec
    function = jax.jit(functools.partial(eval_step, model=trained.model))
    with jax.set_mesh(evaluation.mesh), Bar("batch", evaluation.eval_batch_size) as bar:
        batches = (
            model_inputs(
                evaluation.data,
                split,
                batch_size=evaluation.eval_batch_size,
                mean=spec.mean,
                std=spec.std,
                sharding=sharding.batch_sharding(evaluation.mesh),
                progress=bar,
            )
            for split in splits
        )
        return tally(itertools.chain.from_iterable(batches), function, variables)
