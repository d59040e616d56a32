"""Float32 powers, sines and cosines: the reference's bits, and how far from truth."""

from decimal import Decimal, localcontext

import numpy as np
import pytest

from vit_jax_tricks.models.layers.functional.float32_trigonometry import (
    float32_power,
    float32_sin_cos,
)


# x and what torch 2.13.0 returns: not the nearest float, and within 1e-7 of the last
# bit from rounding the other way.
SINES = [
    (0.0004436330054886639, 0.0004436330054886639),
    (0.004302183631807566, 0.004302170593291521),
    (0.060532622039318085, 0.060495663434267044),
    (1.5235402584075928, 0.9988836050033569),
    (27.50250244140625, 0.6974488496780396),
    (223.3961944580078, -0.3364231586456299),
    (459.1925048828125, 0.4968605935573578),
    (7970.50048828125, -0.27628466486930847),
]
COSINES = [
    (0.00026738192536868155, 1.0),
    (0.0008867051801644266, 0.9999996423721313),
    (0.009079601615667343, 0.9999588131904602),
    (0.13226079940795898, 0.9912662506103516),
    (0.9325500726699829, 0.5957878828048706),
    (5.292505741119385, 0.5481216311454773),
    (192.2122344970703, -0.8391473293304443),
    (9209.4033203125, -0.17464350163936615),
]


@pytest.mark.parametrize("which", [0, 1])
def test_the_hardest_angles_round_as_in_torch(which):
    x, expected = np.array((SINES, COSINES)[which], np.float32).T
    y = float32_sin_cos(x)[which]
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(float32_sin_cos(-x)[0], -float32_sin_cos(x)[0])
    np.testing.assert_array_equal(float32_sin_cos(-x)[1], float32_sin_cos(x)[1])


@pytest.mark.parametrize("largest", [1e-3, 1.0, 100.0, 1e4])
def test_values_lie_within_0_61_of_the_last_bit(largest):
    x = np.random.default_rng(0).uniform(-largest, largest, (500, 100))
    x = x.astype(np.float32)
    exact = np.sin(x.astype(np.float64)), np.cos(x.astype(np.float64))
    for y, true in zip(float32_sin_cos(x), exact, strict=True):
        assert y.shape == x.shape
        bit = np.spacing(np.abs(true).astype(np.float32)).astype(np.float64)
        assert (np.abs(y - true) / bit).max() < 0.61


def test_no_angle_is_no_turn():
    sin, cos = float32_sin_cos(np.zeros(3, np.float32))
    assert sin.tolist() == [0, 0, 0]
    assert cos.tolist() == [1, 1, 1]


@pytest.mark.parametrize("base", [10.0, 100.0, 7.3, 10000.0])
@pytest.mark.parametrize("n", [6, 16, 18])
def test_powers_are_the_nearest_floats(base, n):
    exponents = np.arange(n, dtype=np.float32) / np.float32(n)
    y = float32_power(base, exponents)
    assert y.dtype == np.float32
    with localcontext(prec=40):
        exact = [
            Decimal(float(np.float32(base))) ** Decimal(float(e)) for e in exponents
        ]
        for found, true in zip(y, exact, strict=True):
            near = (np.nextafter(found, np.float32(way)) for way in (0, np.inf))
            error = abs(Decimal(float(found)) - true)
            assert all(error <= abs(Decimal(float(other)) - true) for other in near)
