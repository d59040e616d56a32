"""Optimisers by name: optax parts, with one place for decay, clipping and rates.

The chain is: clip, [decay, for the coupled ones], direction, [decay], trust ratio,
per-parameter factor, learning rate.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.optim.param_groups import Factors, describe, factors
from vit_jax_tricks.optim.schedule import Schedule
from vit_jax_tricks.param_names import GENERAL, ParameterRoles, path_str


__all__ = ["OPTIMIZERS", "Costly", "build", "describe"]

Table = dict[str, Factors]
Transform = optax.GradientTransformation


class Costly(optax.GradientTransformation):
    """An optimiser that multiplies matrices: an update is better not made twice."""


def _layerwise(values: np.ndarray, like: jax.Array) -> jax.Array:
    """One factor for each layer, shaped to multiply a leaf."""
    shape = (1,) * like.ndim if values.size == 1 else (-1,) + (1,) * (like.ndim - 1)
    return jnp.asarray(values, like.dtype).reshape(shape)


def _each(table: Table, fn: Callable[[Factors, Any, Any], Any]) -> Transform:
    """A stateless transform: fn(parameter, update, value) at every leaf."""

    def update(updates: Any, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, u, p: fn(table[path_str(path)], u, p), updates, params
        )

    return optax.stateless(update)


def _scale(table: Table, field: str) -> Transform:
    """Multiplies each update by its parameter's factor."""

    def scaled(leaf: Factors, update: jax.Array, _: Any) -> jax.Array:
        values = getattr(leaf, field)
        return update if (values == 1).all() else update * _layerwise(values, update)

    return _each(table, scaled)


def _add_decay(table: Table, weight_decay: float) -> Transform:
    """update + weight_decay * p, for the parameters that decay."""

    def decayed(leaf: Factors, update: jax.Array, p: jax.Array) -> jax.Array:
        if not leaf.decay.any():
            return update
        return update + _layerwise(weight_decay * leaf.decay, update) * p

    return _each(table, decayed) if weight_decay else optax.identity()


def _trust_ratio(
    table: Table, weight_decay: float, *, clip: bool, always: bool
) -> Transform:
    """update * |p| / |update|, layer by layer, for the parameters that decay."""

    def adapted(leaf: Factors, update: jax.Array, p: jax.Array) -> jax.Array:
        adapts = np.full(leaf.decay.shape, always) | (leaf.decay * weight_decay != 0)
        if not adapts.any():
            return update
        axes = tuple(range(int(leaf.stacked), update.ndim))

        def norm(x: jax.Array) -> jax.Array:
            return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))

        size, step = norm(p), norm(update)
        valid = (size > 0) & (step > 0) & (_layerwise(adapts, update) > 0)
        ratio = jnp.where(valid, size / jnp.where(step > 0, step, 1.0), 1.0)
        return update * (jnp.minimum(ratio, 1.0) if clip else ratio)

    return _each(table, adapted)


def _clip_norm(limit: float) -> Transform:
    """g * min(1, limit / (|g| + 1e-6)), |g| over all parameters.

    Equivalent to torch's clip_grad_norm_ (tested).
    """

    def clipped(updates: Any, _: Any) -> Any:
        factor = jnp.minimum(limit / (optax.tree.norm(updates) + 1e-6), 1.0)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

    return optax.stateless(clipped)


def _clip_adaptive(table: Table, limit: float) -> Transform:
    """Clips each output unit's gradient to at most limit * max(|unit|, 1e-3).

    Source: Brock et al., 2021, arXiv:2102.06171. Equivalent to timm's
    adaptive_clip_grad on kernels and vectors (tested).
    """
    kinds = {leaf.inputs for leaf in table.values()}
    return optax.chain(
        *(
            optax.masked(
                optax.adaptive_grad_clip(limit, axis=axes),
                lambda tree, axes=axes: jax.tree_util.tree_map_with_path(
                    lambda path, _: table[path_str(path)].inputs == axes, tree
                ),
            )
            for axes in sorted(kinds)
        )
    )


def _promoting(inner: Transform) -> Transform:
    """Lets optax raise a float to its int32 count under strict promotion."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


# The transforms of an optimiser before and after weight decay is added.
Parts = tuple[Transform, Transform]


def _adamw(
    table: Table, decay: float, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Parts:
    """AdamW: Loshchilov & Hutter, 2017, arXiv:1711.05101."""
    return optax.scale_by_adam(b1, b2, eps), optax.identity()


def _adam(
    table: Table, decay: float, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Parts:
    """Adam: Kingma & Ba, 2014, arXiv:1412.6980; decay is an L2 term of the gradient."""
    return optax.identity(), optax.scale_by_adam(b1, b2, eps)


def _lion(table: Table, decay: float, *, b1: float = 0.9, b2: float = 0.99) -> Parts:
    """Lion: Chen et al., 2023, arXiv:2302.06675."""
    return optax.scale_by_lion(b1, b2), optax.identity()


def _sgd(
    table: Table, decay: float, *, momentum: float = 0.9, nesterov: bool = False
) -> Parts:
    """SGD with torch's momentum: m <- momentum m + g; decay is an L2 term of g."""
    return optax.identity(), optax.trace(momentum, nesterov)


def _lamb(
    table: Table,
    decay: float,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    trust_clip: bool = False,
    always_adapt: bool = False,
) -> Parts:
    """LAMB: You et al., 2019, arXiv:1904.00962, with timm's trust-ratio rules."""
    trust = _trust_ratio(table, decay, clip=trust_clip, always=always_adapt)
    return optax.scale_by_adam(b1, b2, eps), trust


def _muon(
    table: Table,
    decay: float,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> Parts:
    """Muon: orthogonalised momentum for the blocks' kernels, AdamW for the rest.

    Queries, keys and values are three matrices. Updates are scaled to AdamW's usual
    size, 0.2 sqrt(max(in, out)), so that one learning rate serves both parts.

    Sources: Jordan et al., 2024; Liu et al., 2025, arXiv:2502.16982.
    """

    def mapped(fn: Callable[[Factors], Any]) -> Callable[[Any], Any]:
        return lambda tree: jax.tree_util.tree_map_with_path(
            lambda path, _: fn(table[path_str(path)]), tree
        )

    def axes(leaf: Factors) -> optax.contrib.MuonDimensionNumbers:
        return optax.contrib.MuonDimensionNumbers(leaf.inputs, leaf.outputs)

    def as_adam(leaf: Factors, update: jax.Array, _: Any) -> jax.Array:
        side = max(
            math.prod(leaf.shape[i] for i in axis)
            for axis in (leaf.inputs, leaf.outputs)
        )
        return update * (0.2 * math.sqrt(side))

    orthogonal = optax.contrib.scale_by_muon(
        beta=momentum, nesterov=nesterov, weight_dimension_numbers=mapped(axes)
    )
    direction = optax.partition(
        {
            True: optax.chain(orthogonal, _each(table, as_adam)),
            False: optax.scale_by_adam(b1, b2, eps),
        },
        mapped(lambda leaf: leaf.hidden_matrix),
    )
    return direction, optax.identity()


OPTIMIZERS = {
    "adam": _adam,
    "adamw": _adamw,
    "lamb": _lamb,
    "lion": _lion,
    "muon": _muon,
    "sgd": _sgd,
}
COSTLY = frozenset({"muon"})  # multiply matrices


def _parts(name: str, table: Table, weight_decay: float, given: dict) -> Parts:
    if name not in OPTIMIZERS:
        raise UserError(f'optimizer "{name}" is unknown.{nearest(name, OPTIMIZERS)}')
    make = OPTIMIZERS[name]
    valid = list(inspect.signature(make).parameters)[2:]
    given = {key: value for key, value in given.items() if value is not None}
    if weight_decay < 0 or given.get("eps", 0) < 0:
        raise UserError("weight_decay and eps must be 0 or more.")
    for key in ("b1", "b2", "momentum"):
        if not 0 <= given.get(key, 0) < 1:
            raise UserError(f"{key}={given[key]}: expected 0 <= {key} < 1.")
    for key in given:
        if key not in valid:
            raise UserError(f"{name} takes no {key}; it takes {', '.join(valid)}.")
    before, after = make(table, weight_decay, **given)
    return _promoting(before), _promoting(after)


def _clip(name: str, table: Table, limit: float | None, mode: str) -> Transform:
    if mode not in ("norm", "adaptive"):
        raise UserError(f'clip_mode "{mode}" is unknown: "norm" or "adaptive".')
    if limit is None:
        limit = 1.0 if name == "lamb" and mode == "norm" else 0.0
    if limit < 0:
        raise UserError(f"grad_clip={limit} must be positive, or 0 for none.")
    if not limit:
        return optax.identity()
    if mode == "adaptive":
        return _clip_adaptive(table, limit)
    return optax.clip_by_global_norm(limit) if name == "lamb" else _clip_norm(limit)


def build(
    params: Any,
    *,
    schedule: Schedule,
    name: str = "adamw",
    weight_decay: float = 0.05,
    grad_clip: float | None = None,
    clip_mode: str = "norm",
    layer_decay: float | None = None,
    rules: Sequence[Any] = (),
    roles: ParameterRoles = GENERAL,
    b1: float | None = None,
    b2: float | None = None,
    eps: float | None = None,
    momentum: float | None = None,
    nesterov: bool | None = None,
    trust_clip: bool | None = None,
    always_adapt: bool | None = None,
) -> Transform:
    """Builds the optimiser `name` for parameters like `params`, arrays or shapes.

    `weight_decay` is multiplied by the learning rate, as in torch. `grad_clip` is a
    global norm (0: none; None: the optimiser's default, 1 for LAMB and none for the
    others) or, with `clip_mode="adaptive"`, the largest ratio of gradient norm to
    parameter norm. `layer_decay`, `rules` and `roles`, those of the model, are
    explained in `param_groups.factors`. The other arguments are the optimiser's own;
    None is its default. A frozen parameter has no state, never changes and does not
    count in the norm.

    Raises: UserError for an unknown name, a hyper-parameter that this optimiser does
      not take, a negative clip, or invalid rules.
    Equivalent to torch's AdamW, Adam, SGD and timm's Lamb, Lion (tested).
    """
    table = factors(params, layer_decay=layer_decay, rules=rules, roles=roles)
    given = {
        "b1": b1,
        "b2": b2,
        "eps": eps,
        "momentum": momentum,
        "nesterov": nesterov,
        "trust_clip": trust_clip,
        "always_adapt": always_adapt,
    }
    before, after = _parts(name, table, weight_decay, given)
    chain = optax.chain(
        _scale(table, "trainable"),
        _clip(name, table, grad_clip, clip_mode),
        before,
        _add_decay(table, weight_decay),
        after,
        _scale(table, "lr"),
        optax.scale_by_learning_rate(schedule),
    )
    if not all(leaf.trainable.any() for leaf in table.values()):
        chain = _partly(chain, table)
    return Costly(*chain) if name in COSTLY else chain


def _partly(chain: Transform, table: Table) -> Transform:
    """The chain for trainable parameters; frozen ones have no state."""

    def labels(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: bool(table[path_str(path)].trainable.any()), tree
        )

    return optax.partition({True: chain, False: optax.set_to_zero()}, labels)
