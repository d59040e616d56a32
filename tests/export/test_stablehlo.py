"""StableHLO: the loaded function equals the model, on any number of images."""

import jax
import numpy as np
import pytest
import weight_files
from model_goldens import jit_once
from zoo import ONE_EACH, SMALL

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export import load, to_stablehlo
from vit_jax_tricks.models import create_model


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


@pytest.fixture(scope="module")
def content():
    model = create_model("vit_tiny_patch16_224", 3, **weight_files.SMALL)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), "f"))
    return to_stablehlo(model, variables, model.image_shape)


def test_damaged_and_other_files_are_refused(content):
    """What XLA makes of a changed byte is another result, or the end of the process."""
    rng = np.random.default_rng(0)
    for at in [0, len(content) - 1, *rng.integers(0, len(content), 100)]:
        changed = bytearray(content)
        changed[at] ^= 1 << rng.integers(8)
        with pytest.raises(UserError):
            load(bytes(changed))
        with pytest.raises(UserError):
            load(content[:at])
    for other in (b"", b"something else"):
        with pytest.raises(UserError, match="no complete StableHLO file"):
            load(other)
    with pytest.raises(UserError, match="is damaged"):
        load(content[64:])
