"""Float32 powers, sines and cosines, rounded as in PyTorch on any processor.

NumPy's differ in the last bit, and differently on each CPU. The references keep their
rotation tables in float32, so these bits show up even in float64 logits (4e-8).
"""

import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.typing import Array, Float


# sin t = t (1 + C_1 t^2 + ... + C_4 t^8), with a relative error of at most 6.1e-9: the
# minimax polynomial on |t| <= pi/2, with its last digits fitted to PyTorch's values.
COEFFICIENTS = (
    -0.1666665955042822,
    0.008333066246098723,
    -0.0001980960290320001,
    2.605780640668058e-06,
)
# pi in two parts; the upper times a multiple of 1/2 below 2^14 is exact in float64.
PI = (3.1415926535846666, 5.126688303189038e-12)


def float32_power(
    base: float, exponents: Float[np.ndarray, "k"]
) -> Float[np.ndarray, "k"]:
    """base^e of a float32 base, correctly rounded to float32.

    `torch.pow` differs in the last bit for 0.06% of the values that it computes one at
    a time (the remainder after its vectors: up to 31 exponents with AVX-512), and for
    1.8% of the others.
    """
    wide = np.float64(np.float32(base))
    return (wide ** exponents.astype(np.float64)).astype(np.float32)


def float32_sin_cos(
    angles: Float[Array, "*s"],
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """(sin, cos) of float32 angles in radians, in float32, within 0.61 ulp.

    Computes (-1)^n sin t for t = x - n pi, |t| <= pi/2, by a polynomial in float64,
    rounded once; for the cosine, n is a half-integer. For |x| <= 1e4 it equals, bit for
    bit, what PyTorch 2.13 returns on x86 for `torch.sin` and `torch.cos` (there MKL's
    `vmsSin` and `vmsCos`). NumPy arrays give NumPy arrays; others need JAX's float64
    (`JAX_ENABLE_X64=1`).
    """
    xp = np if isinstance(angles, np.ndarray) else jnp
    inverse = np.float32(1 / np.pi)
    upright = xp.abs(angles)
    turns = xp.rint(angles * inverse)
    shifted = xp.rint((upright + np.float32(np.pi / 2)) * inverse)
    return (
        _signed_sine(angles, turns, 0.0),
        _signed_sine(upright, shifted, 0.5),
    )


def _signed_sine(
    angles: Float[Array, "*s"], turns: Float[Array, "*s"], shift: float
) -> Float[Array, "*s"]:
    """(-1)^turns sin(angles - (turns - shift) pi), rounded to float32."""
    xp = np if isinstance(angles, np.ndarray) else jnp
    upper, lower = PI
    n = turns.astype(np.float64)
    t = angles.astype(np.float64) - (n - shift) * upper - (n - shift) * lower
    square = t * t
    series = xp.zeros_like(t)
    for coefficient in reversed(COEFFICIENTS):
        series = (series + coefficient) * square
    value = t + t * series
    return xp.where(n % 2 == 0, value, -value).astype(np.float32)
