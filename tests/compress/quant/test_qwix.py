"""Absmax int8 against Qwix, which divides by 127.5 as `half_range` does."""

import jax.numpy as jnp
import numpy as np
import pytest
import qwix

from vit_jax_tricks.compress import grid, quantize, symmetric_range


INT8 = grid("int8")


@pytest.mark.parametrize("channelwise", [(), (1,)])
def test_absmax_int8(channelwise):
    x = np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32)
    theirs = qwix.quantize(
        jnp.asarray(x),
        jnp.int8,
        channelwise_axes=channelwise,
        calibration_method="absmax",
    )
    axes = None if not channelwise else 0
    largest = jnp.abs(x).max(axes, keepdims=True)
    ours = symmetric_range(-largest, largest, grid=INT8, half_range=True)
    np.testing.assert_allclose(ours.scale, theirs.scale, rtol=2e-7)
    stored = quantize(x, ours.scale, grid=INT8)
    apart = np.asarray(stored, np.int32) - np.asarray(theirs.qvalue, np.int32)
    assert np.abs(apart).max() <= 1
    assert (apart != 0).mean() < 1e-2
    ties = np.abs(np.abs(x / np.asarray(ours.scale)) % 1 - 0.5) < 1e-4
    assert not apart[~ties].any()
