"""Translates elementwise operations: arithmetic, functions, comparisons and casts."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.export.graph import broadcast
from vit_jax_tricks.export.translate import Translator, floats, rule
from vit_jax_tricks.export.values import Constant, Shape, Tensor, Value


ONNX = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "neg": "Neg",
    "abs": "Abs",
    "sign": "Sign",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
    "sin": "Sin",
    "cos": "Cos",
    "erf": "Erf",
    "logistic": "Sigmoid",
    "floor": "Floor",
    "ceil": "Ceil",
    "pow": "Pow",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "and": "And",
    "or": "Or",
    "not": "Not",
}
SAME = ("copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision")
# Neutral element on the right (or, if commutative, on either side) of an operation.
_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1, "max": -np.inf, "min": np.inf}
_COMMUTES = ("add", "mul", "max", "min")


def aligned(value: Any, rank: int) -> Any:
    """A scalar constant as an array of the rank of the other operand."""
    if isinstance(value, Constant) and not value.shape:
        ones = (1,) * rank
        return Constant(value.array.reshape(ones), ones)
    return value


def compute(t: Translator, op: str, values: list[Value], shape: Shape) -> Tensor:
    """Adds an operator that broadcasts its operands."""
    dims = broadcast(*(value.dims for value in values))
    inputs = [t.graph.name(value) for value in values]
    return Tensor(t.graph.add(op, inputs, dims), shape, dims)


def _fold(t: Translator, eqn: Any, values: list[Any], shape: Shape) -> Constant:
    dims = broadcast(*(value.dims for value in values))
    same = [np.broadcast_to(value.array, dims) for value in values]
    return Constant(np.asarray(eqn.primitive.bind(*same, **eqn.params)), shape)


@rule(*ONNX, "square", "integer_pow", "rsqrt", "erfc", "round", "log1p", "expm1")
@rule("select_n", "clamp", "convert_element_type")
def _elementwise(t: Translator, eqn: Any, values: list[Value]) -> Any:
    shape, name = t.shape(eqn.outvars[0]), eqn.primitive.name
    if name == "convert_element_type" and _same_type(eqn):
        return values[0]  # quantised levels stay levels
    values = [aligned(floats(value), len(shape)) for value in values]
    if all(isinstance(value, Constant) for value in values):
        return _fold(t, eqn, values, shape)
    kept = _without_neutral(name, values, shape)
    if kept is not None:
        return kept
    if name in ONNX:
        return compute(t, ONNX[name], values, shape)
    return _FUNCTIONS[name](t, eqn, values, shape)


@rule(*SAME)
def _same(t: Translator, eqn: Any, values: list[Value]) -> Any:
    return values if eqn.primitive.multiple_results else values[0]


def _same_type(eqn: Any) -> bool:
    return eqn.invars[0].aval.dtype == eqn.outvars[0].aval.dtype


def _without_neutral(name: str, values: list[Any], shape: Shape) -> Any:
    """The operand that the result equals, or None."""
    if name not in _NEUTRAL:
        return None
    pairs = [(values[0], values[1])]
    if name in _COMMUTES:
        pairs.append((values[1], values[0]))
    for kept, other in pairs:
        if isinstance(other, Constant) and (other.array == _NEUTRAL[name]).all():
            return dataclasses.replace(kept, shape=shape)
    return None


def _number(value: float | int, rank: int) -> Constant:
    return Constant(np.full((1,) * rank, value, np.float32), (1,) * rank)


def _square(t: Translator, eqn: Any, values: list[Any], shape: Shape) -> Tensor:
    return compute(t, "Mul", [values[0], values[0]], shape)


def _integer_pow(t: Translator, eqn: Any, values: list[Any], shape: Shape) -> Any:
    y = eqn.params["y"]
    if y == 2:
        return _square(t, eqn, values, shape)
    return compute(t, "Pow", [values[0], _number(y, len(shape))], shape)


def _rsqrt(t: Translator, eqn: Any, values: list[Any], shape: Shape) -> Tensor:
    return compute(t, "Reciprocal", [compute(t, "Sqrt", values, shape)], shape)


def _erfc(t: Translator, eqn: Any, values: list[Any], shape: Shape) -> Tensor:
    one = _number(1, len(shape))
    return compute(t, "Sub", [one, compute(t, "Erf", values, shape)], shape)


def _log1p(t: Translator, eqn: Any, values: list[Any], shape: Shape) -> Tensor:
    one = _number(1, len(shape))
    return compute(t, "Log", [compute(t, "Add", [values[0], one], shape)], shape)


def _expm1(t: Translator, eqn: Any, values: list[Any], shape: Shape) -> Tensor:
    one = _number(1, len(shape))
    return compute(t, "Sub", [compute(t, "Exp", values, shape), one], shape)


def _round(t: Translator, eqn: Any, values: list[Any], shape: Shape) -> Tensor:
    if int(eqn.params["rounding_method"]) != 1:
        raise t.unsupported(eqn, " with ties away from zero")
    return compute(t, "Round", values, shape)


def _clamp(t: Translator, eqn: Any, values: list[Any], shape: Shape) -> Tensor:
    low, x, high = values
    return compute(t, "Min", [compute(t, "Max", [x, low], shape), high], shape)


def _select(t: Translator, eqn: Any, values: list[Any], shape: Shape) -> Tensor:
    which, first, second = values
    if eqn.invars[0].aval.dtype != jnp.bool_:
        raise t.unsupported(eqn, " with an index")
    return compute(t, "Where", [which, second, first], shape)


def _cast(t: Translator, eqn: Any, values: list[Any], shape: Shape) -> Tensor:
    (x,) = values
    name = t.graph.add("Cast", [x.name], x.dims, to=eqn.params["new_dtype"].name)
    return Tensor(name, shape, x.dims)


_FUNCTIONS = {
    "square": _square,
    "integer_pow": _integer_pow,
    "rsqrt": _rsqrt,
    "erfc": _erfc,
    "round": _round,
    "log1p": _log1p,
    "expm1": _expm1,
    "select_n": _select,
    "clamp": _clamp,
    "convert_element_type": _cast,
}
