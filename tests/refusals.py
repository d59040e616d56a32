"""What the tests of wrong arguments share: one line, eager, compiled and abstract."""

import jax
import numpy as np
import pytest

from vit_jax_tricks.errors import UserError


def is_array(value):
    return isinstance(value, (jax.Array, np.ndarray))


def split(arguments):
    """Arguments that hold arrays and nothing else, and the others."""
    leaves = {name: jax.tree.leaves(value) for name, value in arguments.items()}
    arrays = {n: arguments[n] for n, x in leaves.items() if x and all(map(is_array, x))}
    return arrays, {n: v for n, v in arguments.items() if n not in arrays}


def abstractly(fn, arguments):
    """The shapes of the result."""
    arrays, others = split(arguments)
    return jax.eval_shape(lambda x: fn(**x, **others), arrays)


def assert_refused(fn, arguments, parts, ways=("eager", "jit", "eval_shape")):
    """Refused by one line with these parts, however it is called."""
    arrays, others = split(arguments)
    calls = {
        "eager": lambda: fn(**arguments),
        "jit": lambda: jax.jit(lambda x: fn(**x, **others))(arrays),
        "eval_shape": lambda: abstractly(fn, arguments),
    }
    for way in ways:
        with pytest.raises(UserError) as caught:
            calls[way]()
        text = str(caught.value)
        assert "\n" not in text, way
        for part in parts:
            assert part in text, (way, text)


def assert_all_refused(fn, right, name, values):
    """Each wrong value of an argument; the first in every way to call."""
    for place, value in enumerate(values):
        value, *parts = value if type(value) is tuple else (value,)
        parts = [f"{fn.__name__}: ", name, *parts]
        ways = () if place else ("jit", "eval_shape")
        assert_refused(fn, right | {name: value}, parts, ("eager", *ways))


def on_device(table):
    """A table (see `cases`) with NumPy's arrays as JAX's; those of 64 bits stay.

    Arrays that JAX makes and cuts at import cost a program for each shape.
    """

    def put(value):
        array = isinstance(value, (np.ndarray, np.generic))
        return jax.device_put(value) if array and value.dtype.itemsize < 8 else value

    return {fn: jax.tree.map(put, pair) for fn, pair in table.items()}


def cases(table):
    """(function, right arguments, argument, its wrong values) of a table.

    The table: function -> (right arguments, {argument: wrong values}); a wrong value
    may come with parts of the message, in a tuple.
    """
    return [
        pytest.param(fn, right, name, values, id=f"{fn.__name__}-{name}")
        for fn, (right, wrong) in table.items()
        for name, values in wrong.items()
    ]
