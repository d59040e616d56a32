"""Small models with weights far from zero, made and run in little time."""

from functools import partial
from typing import Any

import jax
import numpy as np
from model_goldens import jit_once


def fill(model: Any, images: Any) -> Any:
    """Variables of the right shapes, filled quickly and far from zero."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)

    def value(path, leaf):
        noise = 0.1 * rng.standard_normal(leaf.shape, np.float32)
        return noise + np.float32(path[-1].key in ("scale", "var", "gamma"))

    # In one go: jnp.asarray would compile a program for each shape.
    return jax.device_put(jax.tree_util.tree_map_with_path(value, shapes))


def apply(
    model: Any,
    variables: Any,
    images: Any,
    seed: int = 0,
    *,
    train: bool = False,
    mutable: Any = (),
) -> Any:
    """`model.apply` with a dropout key of a seed, compiled once and in little time."""
    key = jax.random.key(seed)
    return _run(variables, images, key, model, train, tuple(mutable))


@partial(jit_once, static_argnums=(3, 4, 5))
def _run(
    variables: Any, images: Any, key: Any, model: Any, train: bool, mutable: tuple
) -> Any:
    return model.apply(
        variables,
        images,
        train=train,
        rngs={"dropout": key},
        mutable=list(mutable) or False,
    )
