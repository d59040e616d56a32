"""A teacher's labels for all training examples, as records of a label pack."""

import collections
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax_tricks import data, paths, sharding
from vit_jax_tricks.data.label_pack.code import encode
from vit_jax_tricks.data.label_pack.manifest import PackSpec, names_crc
from vit_jax_tricks.data.views import View
from vit_jax_tricks.errors import Argument, UserError, nearest
from vit_jax_tricks.models.token_head import TokenHead
from vit_jax_tricks.runs.data import SPECS, check_classes, of_run
from vit_jax_tricks.runs.model_inputs import model_inputs
from vit_jax_tricks.runs.trained import Trained, checksum
from vit_jax_tricks.teach.token_logits import token_logits
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
    form: TokenHead
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


def labeller(
    teacher: Trained,
    source: data.Data,
    *,
    top: int = 5,
    grid: tuple[int, int] | None = None,
    raw: bool = False,
    batch_size: int = 64,
    examples_per_file: int = 8192,
) -> Labeller:
    """The labeller of a teacher and data, with the arguments of `relabel`.

    Raises:
      UserError: data with other classes, or a finer grid than the teacher's.
    """
    form = teacher.model.token_head()
    check_classes(source, teacher)
    spec = teacher.spec
    view = dataclasses.replace(spec.view, train_crop="whole")
    mesh = sharding.make_mesh()
    pieces = sharding.batch_divisor(mesh)
    kept = kept_scores(source.num_classes, top)
    pack = PackSpec(
        teacher={
            "name": spec.name,
            "weights": teacher.source,
            "checksum": checksum(teacher.variables[""]),
            "form": form.name,
        },
        preprocessing={
            "size": view.size,
            "crop": "whole",
            "resize": view.resize,
            "mean": spec.mean,
            "std": spec.std,
        },
        data=named_data(source),
        class_names=tuple(source.class_names),
        files=names_crc(source.whole_train),
        count=len(source.whole_train),
        grid=_grid(grid, form),
        rest="none" if kept == source.num_classes else "zero" if raw else "mean",
        top=kept,
        shard_size=examples_per_file,
    )
    batch_size = -(-batch_size // pieces) * pieces
    return Labeller(teacher, form, source, pack, view, mesh, batch_size)


def open_data(
    teacher: Trained | None, spec: str | None = None, **options: Any
) -> data.Data:
    """Opens the pictures to label: a data spec, or the data of the teacher's run.

    Args:
      teacher: a run, unless `spec` is given.
      spec: as `data.build` takes it.
      options: those of `SOURCE_KEYS`.

    Raises:
      UserError: neither is given, or an option that does not select examples.
    """
    for key in options:
        if key not in SOURCE_KEYS:
            raise UserError(
                Argument("data"),
                f".{key}: a label pack covers whole pictures and the whole training "
                f"split.{nearest(key, SOURCE_KEYS)}",
            )
    if spec is not None:
        return data.build(paths.data(spec), **options)
    if teacher is None or teacher.workdir is None:
        raise UserError("give ", Argument("data"), f"=SPEC: {SPECS}.")
    return data.build(**{**of_run(teacher.workdir), **options})


def named_data(source: data.Data) -> dict[str, Any]:
    """The name of the data and the keys that select examples, where not default."""
    defaults, given = inspect.signature(data.build).parameters, source.arguments
    keys = [key for key in SOURCE_KEYS if key != "data_dir"]
    named = {k: given[k] for k in keys if given[k] != defaults[k].default}
    return {"name": source.name, **named}


def kept_scores(num_classes: int, top: int) -> int:
    """Number of scores that a pack keeps for each place.

    Raises: UserError for more classes than two bytes can number.
    """
    if num_classes > MOST_CLASSES:
        raise UserError(
            f"{num_classes} classes: a label pack holds at most {MOST_CLASSES:,}."
        )
    return min(top, num_classes)


def label_images(
    variables: Params,
    images: Float[Array, "b h w c"],
    *,
    model: Any,
    form: TokenHead,
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


def _grid(grid: tuple[int, int] | None, form: TokenHead) -> tuple[int, int]:
    if grid is None:
        return form.grid
    if not (1 <= grid[0] <= form.grid[0] and 1 <= grid[1] <= form.grid[1]):
        given, own = ("x".join(map(str, pair)) for pair in (grid, form.grid))
        raise UserError(
            Argument("grid"), f"={given}: the teacher has {own} cells; give no more."
        )
    return grid
