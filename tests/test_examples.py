"""Examples in docstrings: each runs and shows what it says."""

import doctest

import pytest

from vit_jax_tricks import compress, export


FUNCTIONS = (
    *(compress.prune, compress.calibrate, compress.sensitivity),
    *(export.to_onnx, export.to_onnx_int8, export.to_stablehlo),
)


@pytest.mark.parametrize("fn", FUNCTIONS, ids=lambda fn: fn.__name__)
def test_example(fn):
    name = fn.__name__
    example = doctest.DocTestParser().get_doctest(fn.__doc__, {}, name, None, 0)
    assert example.examples
    found = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=found.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(found)
