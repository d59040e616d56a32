"""Translates sums and extrema along axes and over windows."""

import math
from typing import Any

import numpy as np

from vit_jax_tricks.export.elementwise import compute
from vit_jax_tricks.export.translate import Translator, floats, rule
from vit_jax_tricks.export.values import Constant, Tensor, Value, static


_REDUCE = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
}
_WINDOWS = {"reduce_window_sum": "AveragePool", "reduce_window_max": "MaxPool"}


@rule(*_REDUCE)
def _reduce(t: Translator, eqn: Any, values: list[Any]) -> Value:
    value, axes = floats(values[0]), eqn.params["axes"]
    if isinstance(value, Constant) and static(value.shape):
        return t.fold(eqn, [value])[0]
    name, out = t.graph.full(value), t.shape(eqn.outvars[0])
    if not axes:
        return value
    kept = tuple(1 if i in axes else size for i, size in enumerate(value.shape))
    where = t.graph.integers(axes)
    name = t.graph.add(_REDUCE[eqn.primitive.name], [name, where], kept, keepdims=1)
    return Tensor(t.graph.reshape(name, out), out, out)


@rule("argmax")
def _argmax(t: Translator, eqn: Any, values: list[Any]) -> Value:
    value, (axis,) = floats(values[0]), eqn.params["axes"]
    if isinstance(value, Constant):
        return t.fold(eqn, [value])[0]
    out = t.shape(eqn.outvars[0])
    name = t.graph.add("ArgMax", [value.name], out, axis=axis, keepdims=0)
    to = eqn.params["index_dtype"]
    return t.graph.tensor("Cast", [name], out, to=np.dtype(to).name)


@rule(*_WINDOWS)
def _window(t: Translator, eqn: Any, values: list[Any]) -> Value:
    """Pools feature maps [b, h, w, c]; a sum is the mean times the entry count."""
    p, value = eqn.params, floats(values[0])
    if isinstance(value, Constant) and static(value.shape):
        return t.fold(eqn, [value])[0]
    window, strides, padding = (
        p["window_dimensions"],
        p["window_strides"],
        p["padding"],
    )
    plain = {*p["base_dilation"], *p["window_dilation"]} == {1}
    ends = [(window[i], strides[i], *padding[i]) for i in (0, -1)]
    if not plain or len(window) != 4 or ends != [(1, 1, 0, 0)] * 2:
        raise t.unsupported(eqn, " on other than [b, h, w, c]")
    op, out = _WINDOWS[eqn.primitive.name], t.shape(eqn.outvars[0])
    before, after = zip(*padding[1:3], strict=True)
    counted = {"count_include_pad": 1} if op == "AveragePool" else {}
    name = t.graph.add(
        op,
        [t.graph.transpose(t.graph.full(value), (0, 3, 1, 2))],
        (out[0], out[3], *out[1:3]),
        kernel_shape=[int(size) for size in window[1:3]],
        strides=[int(step) for step in strides[1:3]],
        pads=[int(width) for width in (*before, *after)],
        **counted,
    )
    pooled = Tensor(t.graph.transpose(name, (0, 2, 3, 1)), out, out)
    if op == "MaxPool":
        return pooled
    entries = np.full((1,) * 4, math.prod(window), np.float32)
    return compute(t, "Mul", [pooled, Constant(entries, out)], out)
