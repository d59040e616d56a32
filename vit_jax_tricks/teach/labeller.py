"""Body of the command `relabel`: a teacher's labels for all training examples."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax_tricks import config, data, sharding
from vit_jax_tricks.commands.command import MODEL_VALUES, Arguments
from vit_jax_tricks.data.label_pack.code import encode
from vit_jax_tricks.data.label_pack.manifest import PackSpec, names_crc
from vit_jax_tricks.data.views import View
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.models.stacking import flatten
from vit_jax_tricks.runs import evaluation, model_flags
from vit_jax_tricks.runs.model_flags import Trained
from vit_jax_tricks.runs.model_inputs import model_inputs
from vit_jax_tricks.teach.token_logits import Form, form_of, token_logits
from vit_jax_tricks.typing import Array, Float, Int, Params, Shaped


LAG = 2  # batches that may be on the device at once
MOST_CLASSES = 2**16
# Keys of a data section that select the examples; the others set how they are viewed.
SOURCE_KEYS = (
    *("train_split", "test_split", "data_dir"),
    *("skip_broken", "split_seed", "test_fraction"),
)


@dataclasses.dataclass(frozen=True)
class Labeller:
    """A teacher on a mesh, applied to a training split."""

    trained: Trained
    form: Form
    source: data.Data
    spec: PackSpec
    view: View
    mesh: Mesh
    batch_size: int

    def records(
        self, examples: range, check: Callable[[int], None]
    ) -> Iterator[Shaped[np.ndarray, "b"]]:
        """The records of a range of examples, in order.

        `check` is called with the number of examples done before each batch; it may
        raise.
        """
        spec, size = self.trained.spec, self.batch_size

        def before_batch(done: int, total: int) -> None:
            if done < total:
                check(examples.start + done * size)

        batches = model_inputs(
            self.source.through(self.view, examples),
            "train",
            batch_size=size,
            mean=spec.mean,
            std=spec.std,
            sharding=sharding.batch_sharding(self.mesh),
            progress=before_batch,
        )
        pending = collections.deque()
        for batch in batches:
            with jax.set_mesh(self.mesh):
                found = self._step(self._variables, batch["image"])
            pending.append(found | {"labels": batch["label"], "mask": batch["mask"]})
            if len(pending) > LAG:
                yield _record(pending.popleft())
        while pending:
            yield _record(pending.popleft())
        check(examples.stop)

    @functools.cached_property
    def _variables(self) -> Params:
        whole = NamedSharding(self.mesh, PartitionSpec())
        return jax.device_put(self.trained.variables[""], whole)

    @functools.cached_property
    def _step(self) -> Callable:
        step = functools.partial(
            label_images,
            model=self.trained.model,
            form=self.form,
            grid=self.spec.grid,
            top=self.spec.top,
            shifted=self.spec.rest == "mean",
        )
        return jax.jit(step)


def _record(found: dict[str, jax.Array]) -> Shaped[np.ndarray, "b"]:
    """The records of a batch, without its padding."""
    values = jax.device_get(found)
    count = int(values.pop("mask").sum())
    return encode(**{name: value[:count] for name, value in values.items()})


def labeller(given: Arguments) -> Labeller:
    """Builds the labeller that a command line requests.

    Raises:
      UserError: flags that contradict one another, data with other classes, and as
        `load_pretrained` and `data.build`.
    """
    with _teacher_flags():
        trained = model_flags.load(_teacher(given), resize="area")
    form = form_of(trained.model)
    source, named = open_data(given)
    with _teacher_flags():
        evaluation.check_classes(source, trained)
    spec = trained.spec
    view = dataclasses.replace(spec.view, train_crop="whole")
    mesh = sharding.make_mesh()
    pieces = sharding.batch_divisor(mesh)
    batch_size = given.whole("batch_size", 64) or 64
    kept = sizes(given, source.num_classes)
    every = kept["top"] == source.num_classes
    pack = PackSpec(
        teacher={
            "name": spec.name,
            "weights": trained.source,
            "checksum": checksum(trained.variables[""]),
            "form": form.name,
        },
        preprocessing={
            "size": view.size,
            "crop": "whole",
            "resize": view.resize,
            "mean": spec.mean,
            "std": spec.std,
        },
        data=named,
        class_names=tuple(source.class_names),
        files=names_crc(source.whole_train),
        count=len(source.whole_train),
        grid=_grid(given, form),
        rest="none" if every else "zero" if given.get("raw") else "mean",
        **kept,
    )
    batch_size = -(-batch_size // pieces) * pieces
    return Labeller(trained, form, source, pack, view, mesh, batch_size)


def label_images(
    variables: Params,
    images: Float[Array, "b h w c"],
    *,
    model: Any,
    form: Form,
    grid: tuple[int, int],
    top: int,
    shifted: bool,
) -> dict[str, jax.Array]:
    """The best classes of normalised images and of their cells, with their scores.

    For a grid other than the model's, its logits are interpolated linearly, with
    antialiasing.
    """
    logits, dense = token_logits(model, variables, images, form)
    if grid != form.grid:
        shape = (len(dense), *grid, dense.shape[-1])
        dense = jax.image.resize(dense, shape, "linear")
    out = {}
    for name, values in (("class", logits), ("token", dense)):
        scores, classes = best(values.astype(jnp.float32), top, shifted=shifted)
        out |= {f"{name}_scores": scores, f"{name}_classes": classes}
    return out


def best(
    logits: Float[Array, "*s k"], top: int, *, shifted: bool
) -> tuple[Float[Array, "*s t"], Int[Array, "*s t"]]:
    """The largest logits and their classes, largest first.

    When `shifted`, the log of the mean exponential of the other logits is subtracted:
    the softmax with 0 for each of the other classes then gives the kept classes their
    exact probabilities, and the others their exact sum.
    """
    scores, classes = jax.lax.top_k(logits, top)
    if shifted:
        others = jnp.put_along_axis(logits, classes, -jnp.inf, axis=-1, inplace=False)
        total = jax.nn.logsumexp(others, axis=-1, keepdims=True)
        scores = scores - (total - jnp.log(float(logits.shape[-1] - top)))
    return scores, classes


def sizes(given: Arguments, num_classes: int) -> dict[str, int]:
    """Number of scores that a pack keeps for each place, and of examples in each file.

    Raises:
      UserError: more classes than two bytes can number.
    """
    if num_classes > MOST_CLASSES:
        raise UserError(
            f"{num_classes} classes: a label pack holds at most {MOST_CLASSES:,}."
        )
    top = min(given.whole("top", 5) or 5, num_classes)
    return {"top": top, "shard_size": given.whole("examples_per_file", 8192) or 8192}


def open_data(given: Arguments) -> tuple[data.Data, dict[str, Any]]:
    """--data, or the data of the teacher's run, and its keys that are not default.

    Raises:
      UserError: neither is given, or a key that does not select examples.
    """
    name, workdir = given.get("data"), given.get("teacher")
    pairs = given.sections["data"]
    for key, _ in pairs:
        if key not in SOURCE_KEYS:
            raise UserError(
                f"--data.{key}: a label pack covers whole pictures and the whole "
                f"training split.{nearest(key, SOURCE_KEYS)}"
            )
    if name is not None:
        pairs = [("name", name), *pairs]
    elif workdir is not None:
        known = ("name", *SOURCE_KEYS)
        run = evaluation.run_pairs(Path(workdir))
        pairs = [*((k, text) for k, text in run if k in known), *pairs]
    else:
        raise UserError(
            "give --data=SPEC: digits, digit_scenes/64, folder:PATH or tfds:NAME."
        )
    own = str(config.config_dir() / "digits.py")
    section = config.load(own, [(f"data.{key}", text) for key, text in pairs]).data
    defaults = inspect.signature(data.build).parameters
    named = {k: section[k] for k in SOURCE_KEYS if section[k] != defaults[k].default}
    named.pop("data_dir", None)
    return data.build(**section), {"name": section.name, **named}


def checksum(variables: Params) -> str:
    """SHA-256 of all parameters and statistics, by name."""
    total = hashlib.sha256()
    for path, leaf in sorted(flatten(variables).items()):
        array = np.ascontiguousarray(np.asarray(leaf))
        total.update(f"{path} {array.dtype} {array.shape}".encode())
        total.update(array.view(np.uint8).reshape(-1).data)
    return total.hexdigest()


def _grid(given: Arguments, form: Form) -> tuple[int, int]:
    text = given.get("grid")
    if text is None:
        return form.grid
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise UserError(f"--grid={text}: expected rows and columns, such as 14x14.")
    rows, columns = int(match[1]), int(match[2] or match[1])
    if rows > form.grid[0] or columns > form.grid[1]:
        own = "x".join(map(str, form.grid))
        raise UserError(f"--grid={text}: the teacher has {own} cells; give no more.")
    return rows, columns


def _teacher(given: Arguments) -> Arguments:
    """Converts the teacher's flags to those of the other commands."""
    values: dict[str, str] = {}
    overrides: list[tuple[str, str]] = []
    known = [flag for flag in MODEL_VALUES if flag != "workdir"]
    if (workdir := given.get("teacher")) is not None:
        values["workdir"] = workdir
    for key, text in given.sections["teacher"]:
        if key.startswith("model."):
            overrides.append((key.removeprefix("model."), text))
        elif key in known:
            values[key] = text
        else:
            hint = nearest(key, [*known, "model.KEY"])
            raise UserError(f"--teacher.{key}: unknown.{hint}")
    return Arguments(values, {"model": overrides}, [])


@contextlib.contextmanager
def _teacher_flags() -> Iterator[None]:
    """Renames flags in errors to those of this command."""
    try:
        yield
    except UserError as error:
        text = str(error).replace("--workdir", "--teacher")
        text = re.sub(rf"--({'|'.join(MODEL_VALUES)})\b", r"--teacher.\1", text)
        raise UserError(text) from error
