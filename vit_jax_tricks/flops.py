"""Counts the operations of a function exactly, from its traced program."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


@dataclasses.dataclass(frozen=True)
class Flops:
    """Multiply-accumulates of all matrix products and convolutions.

    Papers on the ViT family call `macs` FLOPs; `flops` is twice as many. `notes` lists
    what could not be counted exactly.
    """

    macs: int
    notes: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiplication and an addition for each MAC."""
        return 2 * self.macs


def count_flops(fn: Callable, *args: Any) -> Flops:
    """Counts the matrix products and convolutions of `fn(*args)`.

    Nothing is computed: `args` may be arrays, `jax.ShapeDtypeStruct` or trees of them.
    A scanned body counts once for each iteration, unlike in XLA's cost analysis. The
    body of a loop of unknown length counts once, and of two branches the more expensive
    one counts; both leave a note. Code that depends on the platform counts as its most
    expensive variant. Softmax, norms, activations and additions are not counted.
    """
    notes: list[str] = []
    closed = jax.make_jaxpr(fn)(*args)
    macs = _count(closed.jaxpr, notes)
    return Flops(macs, tuple(dict.fromkeys(notes)))


def forward_shapes(model: Any, batch: int) -> tuple[Any, jax.ShapeDtypeStruct]:
    """Shapes of a model's variables and of `batch` of its images."""
    images = jax.ShapeDtypeStruct((batch, *model.image_shape), model.dtype)
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), images), images


def _count(jaxpr: core.Jaxpr, notes: list[str]) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        by_platform = eqn.params.get("branches_platforms") is not None
        total += _count_equation(eqn, [] if by_platform else notes)
    return total


def _count_equation(eqn: Any, notes: list[str]) -> int:
    name = eqn.primitive.name
    if name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
        left = eqn.invars[0].aval.shape
        return math.prod(eqn.outvars[0].aval.shape) * math.prod(
            left[axis] for axis in contract
        )
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        out_axis = eqn.params["dimension_numbers"].rhs_spec[0]
        taps = math.prod(kernel) // kernel[out_axis]
        return math.prod(eqn.outvars[0].aval.shape) * taps
    bodies = [_count(body, notes) for body in _bodies(eqn.params)]
    if name == "scan":
        return eqn.params["length"] * sum(bodies)
    if name == "cond":
        if len(set(bodies)) > 1:
            notes.append("a cond has branches of different cost; the larger is counted")
        return max(bodies)
    if name == "while" and sum(bodies):
        notes.append("a while loop of unknown length is counted once")
    return sum(bodies)


def _bodies(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The programs inside an equation: of scan, cond, jit, remat and custom rules."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
