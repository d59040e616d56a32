"""One training step, as a pure function.

There is no jit here: `experiment.py` adds compilation, donation and shardings. Every
draw comes from `step_key(state.key, NAME, state.step)`, so a step is a function of only
the state and the batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange

from vit_jax_tricks.augment.pixels import normalize, to_float
from vit_jax_tricks.objectives import Objective
from vit_jax_tricks.objectives.targets import Batch, Stored, Teach, as_targets
from vit_jax_tricks.random import step_key
from vit_jax_tricks.runs.scores import Model
from vit_jax_tricks.state import TrainState, variables
from vit_jax_tricks.train.guard import guarded
from vit_jax_tricks.typing import Array, Params, PRNGKeyArray


Metrics = dict[str, Array]
Augment = Callable[[PRNGKeyArray, Array, Array], tuple[Array, Any]]
Erase = Callable[[PRNGKeyArray, Array, Array], Array]
Mix = Callable[[PRNGKeyArray, Array, Array], tuple[Array, Any]]
Average = Callable[[Params, Params, Array], Params]


def train_step(
    state: TrainState,
    batch: Batch,
    frozen: Any = (),
    *,
    model: Model,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: Augment,
    erase: Erase | None = None,
    mix: Mix,
    mix_first: bool = False,
    stored: Stored | None = None,
    teach: Teach | None = None,
    average: Average | None = None,
    accumulate: int = 1,
    costly_update: bool = False,
) -> tuple[TrainState, Metrics]:
    """augment → normalise → erase → mix → teach → forward → loss → update.

    If the loss, the gradient or any new value (parameters, statistics, average,
    optimiser state) is not finite, the step changes nothing but the counters `step`,
    `skipped` and `streak`.

    Args:
      state: the training state.
      batch: image uint8 [b, h, w, c], label int32 [b], index int32 [b], and the inputs
        of `stored`.
      frozen: variables of teachers, for `teach`; a step never changes them.
      model: `model.apply(variables, images, train=True)` returns `(logits, aux)`, with
        logits in at least float32.
      optimizer: an optax transformation that includes clipping and decay.
      objective: the loss.
      num_classes: k.
      mean, std: for each channel, for images in [0, 1].
      augment: (key, uint8 images [b, h, w, c], index [b]) -> (images, geometry), the
        images uint8 or float in [0, 1]; draws for each image.
      erase: (key, normalised images, index) -> images, or None.
      mix: (key, images, labels [b, k]) -> (images, labels); with `stored`, the labels
        are a dict of "label" and the results of `stored`.
      mix_first: mixes before normalising and erasing, so that erased boxes stay whole.
      stored: (geometry, batch) -> labels that come with the data, such as those of a
        label pack, for the augmented images; they are mixed with the images.
      teach: (frozen, images) -> the teachers' outputs for the images as the model gets
        them.
      average: (ema, current, step) -> ema, or None.
      accumulate: number of micro-batches, run one after another; their gradients are
        averaged.
      costly_update: as in `guard.guarded`, for optimizers that multiply matrices.

    Returns:
      The new state and scalar metrics: loss, each term, accuracy, grad_norm, skipped,
        streak.
    """

    def key(name: str) -> PRNGKeyArray:
        return step_key(state.key, name, state.step)

    images, geometry = augment(key("augment"), batch["image"], batch["index"])
    images = to_float(images)
    labels: Any = jax.nn.one_hot(batch["label"], num_classes, dtype=jnp.float32)
    if stored is not None:
        labels = {"label": labels, **stored(geometry, batch)}
    if mix_first:
        images, labels = mix(key("mix"), images, labels)
    images = normalize(images, mean, std)
    if erase is not None:
        images = erase(key("erase"), images, batch["index"])
    if not mix_first:
        images, labels = mix(key("mix"), images, labels)

    def loss_fn(params: Params, batch_stats: Params, micro: Batch, dropout: Any):
        (logits, aux), updates = model.apply(
            variables(params, batch_stats),
            micro["image"],
            train=True,
            rngs={"dropout": dropout},
            mutable=["batch_stats"],
        )
        targets = as_targets(micro)
        if teach is not None:
            targets |= teach(frozen, micro["image"])
        label = micro["label"].astype(logits.dtype)
        losses, terms = objective(logits=logits, aux=aux, labels=label, targets=targets)
        hits = jnp.argmax(logits, -1) == jnp.argmax(label, -1)
        metrics = {"loss": losses.mean(), "accuracy": hits.astype(jnp.float32).mean()}
        if len(terms) > 1:
            metrics |= {f"loss_{name}": term.mean() for name, term in terms.items()}
        return metrics["loss"], (metrics, updates.get("batch_stats", {}))

    grad_fn = jax.grad(loss_fn, has_aux=True)
    micro = {"image": images, **({"label": labels} if stored is None else labels)}
    if accumulate == 1:
        grads, (metrics, batch_stats) = grad_fn(
            state.params, state.batch_stats, micro, key("dropout")
        )
    else:
        grads, (metrics, batch_stats) = _accumulated(
            grad_fn, state, micro, key("dropout"), accumulate
        )

    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)

    def updated() -> tuple[Any, Params, Params | None, Any]:
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        current = {"params": params, "batch_stats": batch_stats}
        # Skipped steps do not count; the average warms up by the updates it sees.
        taken = state.step - state.skipped
        ema = None if average is None else average(state.ema, current, taken)
        return params, batch_stats, ema, opt_state

    old = (state.params, state.batch_stats, state.ema, state.opt_state)
    with jax.named_scope("update"):
        finite, (params, batch_stats, ema, opt_state) = guarded(
            finite, updated, old, like=state.params, costly=costly_update
        )
    bad = 1 - finite.astype(jnp.int32)
    state = state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        ema=ema,
        opt_state=opt_state,
        skipped=state.skipped + bad,
        streak=(state.streak + 1) * bad,
    )
    counters = {"skipped": state.skipped, "streak": state.streak}
    return state, metrics | {"grad_norm": grad_norm} | counters


def _accumulated(
    grad_fn: Callable, state: TrainState, batch: Batch, dropout: Any, accumulate: int
) -> tuple[Params, tuple[Metrics, Params]]:
    """Mean gradient and metrics over micro-batches; BatchNorm statistics carry over.

    Micro-batch i takes the examples i, i + accumulate, ..., so that each device keeps
    its own examples, whatever the mesh.
    """
    micros = {
        k: rearrange(v, "(b a) ... -> a b ...", a=accumulate) for k, v in batch.items()
    }

    def body(carry: Any, inputs: Any):
        sums, batch_stats = carry
        i, micro = inputs
        grads, (metrics, batch_stats) = grad_fn(
            state.params, batch_stats, micro, jax.random.fold_in(dropout, i)
        )
        sums = jax.tree.map(jnp.add, sums, (grads, metrics))
        return (sums, batch_stats), None

    first = {k: v[0] for k, v in micros.items()}
    shapes = jax.eval_shape(grad_fn, state.params, state.batch_stats, first, dropout)
    grads, (metrics, _) = shapes
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (grads, metrics))
    (sums, batch_stats), _ = jax.lax.scan(
        body, (zeros, state.batch_stats), (jnp.arange(accumulate), micros)
    )
    grads, metrics = jax.tree.map(lambda x: x / accumulate, sums)
    return grads, (metrics, batch_stats)
