"""StableHLO: the loaded function equals the model, on any number of images."""

import jax
import numpy as np
import pytest
from model_goldens import jit_once
from zoo import ONE_EACH, SMALL

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export import load, to_stablehlo


FAST = ("small_deit", "small_coatnet_rw0")


@pytest.mark.usefixtures("symbolic_sizes")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in FAST else pytest.mark.slow)
        for n in dict.fromkeys([*FAST, *map(str, ONE_EACH)])
    ],
)
def test_equals_the_model(name):
    case = next(case for case in SMALL if str(case) == name)
    model, variables, *_ = case.build("float32")
    content = to_stablehlo(model, variables, model.image_shape)
    assert jax.export.deserialize(bytearray(content)).platforms == (
        "cpu",
        "cuda",
        "tpu",
    )
    function = load(content)
    images = np.random.default_rng(1).standard_normal((3, *model.image_shape))
    images = images.astype(np.float32)
    expected = jit_once(lambda v, x: model.apply(v, x, train=False)[0])
    expected = np.asarray(expected(variables, images))
    for batch in (1, 3):
        np.testing.assert_allclose(
            function(images[:batch]), expected[:batch], rtol=0, atol=1e-5
        )


def test_other_files_are_refused():
    with pytest.raises(UserError, match=r"no StableHLO file"):
        load(b"something else")
