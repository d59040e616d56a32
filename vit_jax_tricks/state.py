"""Training state: everything that a training step changes, and nothing else."""

from typing import Any

import flax.struct
import jax.numpy as jnp
import optax

from vit_jax_tricks.ema import ema_init
from vit_jax_tricks.typing import Params, PRNGKeyArray


class TrainState(flax.struct.PyTreeNode):
    """The training state: a pytree, so jit, donation, sharding and Orbax see one tree.

    Attributes:
      step: steps taken, including skipped ones, int32 [].
      params: parameters, float32.
      batch_stats: running statistics of BatchNorm, {} for models without.
      ema: moving averages of {params, batch_stats}, float32, or None.
      opt_state: the optimiser's state.
      key: the root of all streams (by name and step); it never changes.
      skipped: number of steps whose loss, gradient or update was not finite, int32 [].
      streak: number of such steps since the last finite one, int32 [].
    """

    step: Any  # `Any`: JAX also builds states of shapes and of shardings
    params: Any
    batch_stats: Any
    ema: Any
    opt_state: Any
    key: Any
    skipped: Any
    streak: Any

    @property
    def variables(self) -> Params:
        """The variables that `model.apply` takes."""
        return variables(self.params, self.batch_stats)

    @property
    def averages(self) -> Params | None:
        """The averaged variables, or None without averages."""
        return None if self.ema is None else variables(**self.ema)


def variables(params: Params, batch_stats: Params) -> Params:
    """Packs collections for `model.apply`, leaving out an empty one."""
    return {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})


def create(
    model_variables: Params,
    *,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    ema: bool,
) -> TrainState:
    """The state before the first step; the average starts at the parameters."""
    params = model_variables["params"]
    batch_stats = model_variables.get("batch_stats", {})
    average = {"params": params, "batch_stats": batch_stats}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        ema=ema_init(average) if ema else None,
        opt_state=optimizer.init(params),
        key=key,
        skipped=jnp.zeros((), jnp.int32),
        streak=jnp.zeros((), jnp.int32),
    )
