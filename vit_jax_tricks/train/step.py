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

from vit_jax_tricks.optim.optimizer import Costly
from vit_jax_tricks.random import step_key
from vit_jax_tricks.state import TrainState
from vit_jax_tricks.tasks.task import Batch, Metrics, Task
from vit_jax_tricks.train.guard import guarded
from vit_jax_tricks.typing import Array, Params, PRNGKeyArray


Average = Callable[[Params, Params, Array], Params]


def train_step(
    state: TrainState,
    batch: Batch,
    frozen: Any = (),
    *,
    task: Task,
    optimizer: optax.GradientTransformation,
    average: Average | None = None,
    accumulate: int = 1,
) -> tuple[TrainState, Metrics]:
    """prepare → forward and loss → update.

    If the loss, the gradient or any new value (parameters, statistics, average,
    optimiser state) is not finite, the step changes nothing but the counters `step`,
    `skipped` and `streak`.

    Args:
      state: the training state.
      batch: as `task.train_batches` yields them.
      frozen: variables of teachers, for the task; a step never changes them.
      task: its `prepare` and `forward_loss` are used.
      optimizer: an optax transformation that includes clipping and decay.
      average: (ema, current, step) -> ema, or None.
      accumulate: number of micro-batches, run one after another; their gradients are
        averaged.

    Returns:
      The new state and scalar metrics: those of the task, grad_norm, skipped, streak.

    Raises:
      UserError: micro-batches of a task that does not allow them.
    """
    task.check_accumulate(accumulate)

    def key(name: str) -> PRNGKeyArray:
        return step_key(state.key, name, state.step)

    def loss_fn(params: Params, batch_stats: Params, inputs: Any, micro: Any = None):
        def own(name: str) -> PRNGKeyArray:
            return key(name) if micro is None else jax.random.fold_in(key(name), micro)

        return task.forward_loss(
            params, batch_stats, inputs, frozen, key=own, step=state.step
        )

    inputs = task.prepare(key, batch)
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if accumulate == 1:
        grads, (metrics, batch_stats) = grad_fn(state.params, state.batch_stats, inputs)
    else:
        grads, (metrics, batch_stats) = _accumulated(grad_fn, state, inputs, accumulate)

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
            finite,
            updated,
            old,
            like=state.params,
            costly=isinstance(optimizer, Costly),
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
    grad_fn: Callable, state: TrainState, inputs: Any, accumulate: int
) -> tuple[Params, tuple[Metrics, Params]]:
    """Mean gradient and metrics over micro-batches; BatchNorm statistics carry over.

    Micro-batch i takes the examples i, i + accumulate, ..., so that each device keeps
    its own examples, whatever the mesh.
    """
    micros = jax.tree.map(
        lambda x: rearrange(x, "(b a) ... -> a b ...", a=accumulate), inputs
    )

    def body(carry: Any, given: Any):
        sums, batch_stats = carry
        i, micro = given
        grads, (metrics, batch_stats) = grad_fn(state.params, batch_stats, micro, i)
        sums = jax.tree.map(jnp.add, sums, (grads, metrics))
        return (sums, batch_stats), None

    first = jax.tree.map(lambda x: x[0], micros)
    shapes = jax.eval_shape(grad_fn, state.params, state.batch_stats, first, 0)
    grads, (metrics, _) = shapes
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (grads, metrics))
    (sums, batch_stats), _ = jax.lax.scan(
        body, (zeros, state.batch_stats), (jnp.arange(accumulate), micros)
    )
    grads, metrics = jax.tree.map(lambda x: x / accumulate, sums)
    return grads, (metrics, batch_stats)
