"""The interface of a task: what a run trains, apart from how it updates parameters.

The step, the loop, its banner, checkpoints and evaluations know a run only through its
task. A new task is a function that builds one from a config, and its entry in `TASKS`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.param_names import GENERAL, ParameterRoles
from vit_jax_tricks.tasks.nonfinite import first_input
from vit_jax_tricks.typing import Array, Params, PRNGKeyArray


Batch = dict[str, Array]
Key = Callable[[str], PRNGKeyArray]  # the name of a stream -> its key at this step
Metrics = dict[str, Array]
Shapes = Mapping[str, tuple[tuple[int, ...], Any]]  # name -> shape and dtype


@dataclasses.dataclass(frozen=True)
class Record:
    """What a workdir keeps of its task; a resumed run must have the same.

    Attributes:
      class_names: in the order of the logits; empty without classes.
      model: the content of `model.json`, for tasks that train one image classifier.
      teachers: a fingerprint of each other model or file that the task learns from.
      data: as `data.fingerprint`, or None, which notices no change of the data.
      keys: keys and sections of the config, beside those of every run, of which another
        value makes another run.
    """

    class_names: Sequence[str] = ()
    model: Mapping[str, Any] | None = None
    teachers: Sequence[Mapping[str, str]] = ()
    data: Mapping[str, Any] | None = None
    keys: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Task:
    """Pure functions and host functions that make up what a run trains.

    Attributes:
      train_batch, eval_batch: the arrays of one example in a training and an evaluation
        batch. An evaluation batch also has mask float32 []: 1 for an example, 0 for
        padding.
      init: key -> variables: "params" and, if there are any, "batch_stats".
      prepare: (key, batch) -> inputs, a tree of arrays [b, ...]: all that happens to a
        training batch before the loss, such as augmentation.
      forward_loss: (params, batch_stats, inputs, frozen, *, key, step) -> (loss [],
        (metrics, batch_stats)). It may run its models any number of times; the metrics
        are scalars, with "loss" among them.
      evaluate: (variables, batch) -> sums over the examples of mask 1, with "count"
        among them.
      means: the sums over all batches -> metrics.
      num_train: examples of an epoch.
      train_batches: (batch_size, *, seed, start_step) -> endless host batches from a
        step on; an iterator that can be closed.
      eval_batches: (split, *, batch_size, sharding, progress) -> batches on the devices
        with every example of "test" or "train" once.
      title: the model, for the banner.
      facts: further rows of the banner.
      data_name: the data, for errors.
      score: the metric whose highest value is that of the best checkpoint.
      undivided: why a batch cannot be split into micro-batches, or None.
      roles: what the names of the parameters say to the optimiser and the mesh.
      frozen: variables of teachers: passed to the loss and never changed.
      frozen_roles: the roles of each entry of `frozen`.
      start: key -> the first variables, if they come from files or data; else None, and
        `init` draws them.
      forward: (variables, evaluation batch) -> anything: one forward pass, of which the
        FLOPs are counted; by default `evaluate`.
      culprit: (variables, training batch) -> the origin of a number that is not
        finite; by default only inputs and parameters are looked at.
      record: what the workdir keeps; called once the run begins.
      variants: tasks that take the place of this one at some steps, each with a step of
        its own, such as those of several image sizes; their variables are the same.
      variant_at: step -> a key of `variants`; given if there are any.
    """

    train_batch: Shapes
    eval_batch: Shapes
    init: Callable[[PRNGKeyArray], Params]
    prepare: Callable[[Key, Batch], Any]
    forward_loss: Callable[..., tuple[Array, tuple[Metrics, Params]]]
    evaluate: Callable[[Params, Batch], dict[str, Array]]
    means: Callable[[Mapping[str, float]], dict[str, float]]
    num_train: int
    train_batches: Callable[..., Any]
    eval_batches: Callable[..., Any]
    title: str
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data_name: str = "the data"
    score: str = "accuracy"
    undivided: str | None = None
    roles: ParameterRoles = GENERAL
    frozen: Sequence[Params] = ()
    frozen_roles: Sequence[ParameterRoles] = ()
    start: Callable[[PRNGKeyArray], Params] | None = None
    forward: Callable[[Params, Batch], Any] | None = None
    culprit: Callable[[Params, Batch], str] = first_input
    record: Callable[[], Record] = Record
    variants: Mapping[int, "Task"] = dataclasses.field(default_factory=dict)
    variant_at: Callable[[int], int] | None = None

    def check_accumulate(self, accumulate: int) -> None:
        """Raises UserError for micro-batches that the task does not allow."""
        if accumulate > 1 and self.undivided is not None:
            raise UserError(
                f"config.accumulate={accumulate}: {self.undivided}; use accumulate=1."
            )

    def at(self, variant: int | None) -> "Task":
        """The task of a variant; None is the task itself."""
        return self if variant is None else self.variants[variant]


def batch_of(shapes: Shapes, size: int, sharding: Any = None) -> dict[str, Any]:
    """Shapes of a batch of `size` examples."""
    return {
        name: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in shapes.items()
    }
