"""Stored form of quantised numbers, and their products in integer arithmetic."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.compress.quant.fake_quant import check_fits, levels, operands
from vit_jax_tricks.compress.quant.grids import Grid
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Float, Int, Num


@checked
def quantize(
    x: Float[Array, "..."],
    scale: Float[Array, "..."] | float,
    zero_point: Int[Array, "..."] | int | None = None,
    *,
    grid: Grid,
) -> Num[Array, "..."]:
    """clip(round(x / s) + z, low, high), in the grid's own dtype.

    Its `dequantize` equals `fake_quant` of x, bit for bit. ONNX's QuantizeLinear
    divides by s instead of multiplying by 1 / s: the two differ only within a rounding
    error of a tie.

    Raises: UserError for shapes that do not fit.
    """
    wide, scale, zero_point = operands("quantize", x, scale, zero_point, grid)
    level = levels(wide, scale, zero_point, grid)
    return jnp.clip(level, grid.low, grid.high).astype(grid.dtype)


@checked
def dequantize(
    q: Num[Array, "..."],
    scale: Float[Array, "..."] | float,
    zero_point: Int[Array, "..."] | int | None = None,
) -> Float[Array, "..."]:
    """(q - z) s in float32, the value of a stored number.

    Equivalent to ONNX's DequantizeLinear.
    """
    scale = jnp.asarray(scale, jnp.float32)
    offset = jnp.asarray(0 if zero_point is None else zero_point, jnp.float32)
    check_fits("dequantize", "scale", scale, q.shape)
    check_fits("dequantize", "zero_point", offset, q.shape)
    ones = (1,) * q.ndim
    offset = offset.reshape(offset.shape or ones)
    return (q.astype(jnp.float32) - offset) * scale.reshape(scale.shape or ones)


@checked
def integer_dot(
    x: Num[Array, "*b d"], kernel: Num[Array, "d e"], zero_point: int | Array | None
) -> Int[Array, "*b e"]:
    """sum_d (x_d - z) w_de in int32, for int8 or uint8 x and int8 w.

    Both factors of the product are int8: uint8 values are shifted down by 128, and z is
    subtracted afterwards, as z times the column sums of w.

    Raises: UserError for other dtypes.
    """
    if kernel.dtype != jnp.int8 or x.dtype not in (jnp.int8, jnp.uint8):
        raise UserError(
            f"integer_dot got {x.dtype} x and {kernel.dtype} kernel: it takes int8 or "
            "uint8 x and int8 kernel."
        )
    offset = jnp.asarray(0 if zero_point is None else zero_point, jnp.int32)
    if x.dtype == jnp.uint8:
        x = (x.astype(jnp.int16) - 128).astype(jnp.int8)
        offset = offset - 128
    dims = (((x.ndim - 1,), (0,)), ((), ()))
    total = jax.lax.dot_general(x, kernel, dims, preferred_element_type=jnp.int32)
    columns = kernel.astype(jnp.int32).sum(0)
    return total - (offset.reshape(()) * columns).reshape((1,) * (x.ndim - 1) + (-1,))


@checked
def int8_linear(
    x: Num[Array, "*b d"],
    kernel: Num[Array, "d e"],
    *,
    x_scale: Float[Array, ""] | float,
    kernel_scale: Float[Array, "#e"],
    x_zero_point: Int[Array, ""] | int | None = None,
    bias: Float[Array, "e"] | None = None,
) -> Float[Array, "*b e"]:
    """Linear layer in integer arithmetic: s_x s_w sum_d (x_d - z) w_de + bias.

    Products of int8 or uint8 activations and int8 weights accumulate in int32, and one
    scale for each output channel converts the sum to float32, as an int8 engine does.
    The result equals the float layer on fake-quantised operands up to float32 rounding.

    Raises: UserError for other dtypes.
    Source: Jacob et al., 2017, arXiv:1712.05877.
    """
    total = integer_dot(x, kernel, x_zero_point)
    scale = jnp.asarray(x_scale, jnp.float32) * jnp.asarray(kernel_scale, jnp.float32)
    row = (1,) * (total.ndim - 1) + (-1,)
    y = total.astype(jnp.float32) * scale.reshape(row)
    return y if bias is None else y + bias.astype(jnp.float32).reshape(row)
