"""Translates a jaxpr to a graph: folds constants, inlines calls."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export.graph import Graph
from vit_jax_tricks.export.values import (
    Constant,
    QuantizedConstant,
    Value,
    constant,
    sizes,
    static,
)


# Maps an equation and its operands to its outputs.
Translation = Callable[["Translator", Any, list[Value]], Any]
RULES: dict[str, Translation] = {}
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def rule(*names: str) -> Callable[[Translation], Translation]:
    """Registers the translation of the named primitives."""

    def register(function: Translation) -> Translation:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


class Translator:
    """Translates a jaxpr whose inputs are values; `batch` is its number of images.

    `subject` names the model in messages.
    """

    def __init__(self, graph: Graph, batch: Any, subject: str):
        self.graph, self.subject = graph, subject
        self._batch = batch

    def shape(self, variable: Any) -> tuple:
        """Shape of a variable."""
        return sizes(variable.aval.shape, self._batch)

    def sizes(self, shape: Sequence[Any]) -> tuple:
        """A shape given as a parameter of an equation."""
        return sizes(shape, self._batch)

    def unsupported(self, eqn: Any, why: str = "") -> UserError:
        """The error for an operation that cannot be translated."""
        return UserError(
            f"{self.subject} uses {eqn.primitive.name}{why}, which this exporter does "
            "not write as ONNX; --format=stablehlo takes every model."
        )

    def run(
        self, jaxpr: Any, constants: Iterable[Any], inputs: Iterable[Value]
    ) -> list[Value]:
        """Translates a jaxpr and returns its outputs.

        Raises: UserError for an operation that cannot be translated.
        """
        known: dict[Any, Value] = {}
        known.update(zip(jaxpr.constvars, map(constant, constants), strict=True))
        known.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, Literal):
                return constant(np.asarray(atom.val, _dtype(atom.aval)))
            return known[atom]

        for eqn in jaxpr.eqns:
            outputs = self._equation(eqn, [read(atom) for atom in eqn.invars])
            known.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, values: list[Value]) -> Sequence[Value]:
        name = eqn.primitive.name
        inner = next((eqn.params[key] for key in _INNER if key in eqn.params), None)
        if name in RULES:
            found = RULES[name](self, eqn, values)
            if found is not NotImplemented:
                return found if eqn.primitive.multiple_results else [found]
        elif inner is not None:
            return self.run(getattr(inner, "jaxpr", inner), _constants(inner), values)
        if not all(static(self.shape(v)) for v in [*eqn.invars, *eqn.outvars]):
            raise self.unsupported(eqn)
        if not all(isinstance(value, Constant | QuantizedConstant) for value in values):
            raise self.unsupported(eqn)
        return self.fold(eqn, values)

    def fold(self, eqn: Any, values: Sequence[Value]) -> list[Constant]:
        """Evaluates an equation whose operands are all constant."""
        whole = [floats(value).full() for value in values]
        found = eqn.primitive.bind(*whole, **eqn.params)
        return [
            constant(part)
            for part in (found if eqn.primitive.multiple_results else [found])
        ]


def floats(value: Any) -> Any:
    """Dequantises a stored weight; other values are returned unchanged."""
    return value.dequantized() if isinstance(value, QuantizedConstant) else value


def _constants(inner: Any) -> Sequence[Any]:
    return getattr(inner, "consts", ())


def _dtype(aval: Any) -> Any:
    return aval.dtype


@rule("platform_index")
def _platform(translator: Translator, eqn: Any, values: list[Value]) -> Value:
    """Selects the branch for any platform, not the one for CPUs."""
    platforms = eqn.params["platforms"]
    return constant(np.int32(platforms.index(None)))


@rule("cond")
def _cond(
    translator: Translator, eqn: Any, values: list[Value]
) -> Sequence[Value] | Any:
    index, *operands = values
    if not isinstance(index, Constant):
        raise translator.unsupported(eqn, " on a computed value")
    branch = eqn.params["branches"][int(index.array)]
    return translator.run(branch.jaxpr, branch.consts, operands)


@rule("scan")
def _scan(translator: Translator, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """Unrolls a scan: the graph has a copy of the body for each step."""
    p = eqn.params
    fixed, carried = p["num_consts"], p["num_consts"] + p["num_carry"]
    body = p["jaxpr"]
    stays, carry, slices = values[:fixed], values[fixed:carried], values[carried:]
    steps = range(p["length"])
    outputs: dict[int, list[Value]] = {}
    for step in reversed(steps) if p["reverse"] else steps:
        parts = [_step(translator, eqn, value, step) for value in slices]
        found = translator.run(body.jaxpr, body.consts, [*stays, *carry, *parts])
        carry, outputs[step] = found[: len(carry)], found[len(carry) :]
    stacked = []
    for i, variable in enumerate(eqn.outvars[len(carry) :]):
        parts = [outputs[step][i] for step in steps]
        stacked.append(_stack(translator, parts, translator.shape(variable)))
    return [*carry, *stacked]


def _step(translator: Translator, eqn: Any, value: Any, step: int) -> Value:
    if isinstance(value, QuantizedConstant):
        return value.rearranged(lambda part: part[step])
    if isinstance(value, Constant):
        return constant(value.full()[step])
    raise translator.unsupported(eqn, " over computed values")


def _stack(translator: Translator, parts: list[Value], shape: tuple) -> Value:
    graph = translator.graph
    rows = [
        graph.reshape(graph.full(part), (1, *part.shape)) for part in map(floats, parts)
    ]
    return graph.tensor("Concat", rows, shape, axis=0)


def trace(function: Callable, *arguments: Any) -> Any:
    """Traces a function; the jaxpr's inputs are the arguments' leaves, in order."""
    return jax.make_jaxpr(function)(*arguments)
