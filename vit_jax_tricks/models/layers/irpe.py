"""Image relative position encoding (iRPE) on queries, keys and values.

Source: Wu et al., 2021, arXiv:2107.14222; `RPEAttention` of microsoft/Cream.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.typing import Array, Float


@dataclasses.dataclass(frozen=True)
class Irpe:
    """Kind of encoding: its buckets, and whether heads share it and features enter it.

    `method` is "product", "euclidean", "quant" or "cross"; a larger `ratio` gives more
    buckets. A `contextual` table holds a vector for each bucket, otherwise a number.
    """

    grid: tuple[int, int]
    method: str
    ratio: float
    prefix: int
    contextual: bool = True
    shared: bool = True


class IrpeTable(nn.Module):
    """One table, initially zero: `lookup_table_weight` or `lookup_table_bias`.

    A contextual table is called with the array that it multiplies: queries or keys or,
    for `values`, the attention weights. The cross method has two tables, `rp_rows` and
    `rp_cols`.
    """

    irpe: Irpe
    num_heads: int
    head_dim: int
    values: bool = False
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *s"]) -> Float[Array, "#b *t"]:
        irpe = self.irpe
        if irpe.method == "cross":
            total = []
            for method, name in (("rows", "rp_rows"), ("columns", "rp_cols")):
                half = dataclasses.replace(irpe, method=method)
                total.append(self.clone(irpe=half, name=name, parent=self)(x))
            return total[0] + total[1]
        buckets, count = functional.irpe_buckets(
            irpe.grid, irpe.method, irpe.ratio, prefix=irpe.prefix
        )
        heads = 1 if irpe.shared else self.num_heads
        zeros = nn.initializers.zeros
        if not irpe.contextual:
            shape = (heads, count)
            table = self.param("lookup_table_bias", zeros, shape, self.param_dtype)
            return functional.irpe_bias(table, buckets)
        shape = (heads, self.head_dim, count)
        if self.values:
            shape = (heads, count, self.head_dim)
        table = self.param("lookup_table_weight", zeros, shape, self.param_dtype)
        look_up = functional.irpe_values if self.values else functional.irpe_contextual
        return look_up(x, table.astype(x.dtype), buckets)


class IrpeScores(nn.Module):
    """Bias of the logits from tables on keys `rpe_k`, queries `rpe_q`, or both.

    c(n, m) is the bucket of query n and key m, and `on` is a string such as "qk". On
    keys the bias is scale q_n . table[c(n, m)], on queries scale k_m . table[c(m, n)];
    without context, table[c(n, m)] and table[c(m, n)].
    """

    irpe: Irpe
    num_heads: int
    on: str
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        q: Float[Array, "b n g h"],
        k: Float[Array, "b n g h"],
        scale: float,
        train: bool,
    ) -> Float[Array, "#b #g n n"]:
        del train
        total = []
        for name, x in (("k", q), ("q", k)):
            if name in self.on:
                bias = IrpeTable(
                    self.irpe,
                    self.num_heads,
                    q.shape[-1],
                    param_dtype=self.param_dtype,
                    name=f"rpe_{name}",
                )(x * scale)
                total.append(bias if name == "k" else bias.swapaxes(-1, -2))
        return sum(total[1:], start=total[0])


class IrpeValues(nn.Module):
    """Addition of `rpe_v` to the output: sum over m of weights[n, m] table[c(n, m)]."""

    irpe: Irpe
    num_heads: int
    head_dim: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, weights: Float[Array, "b g n n"]) -> Float[Array, "b n g h"]:
        return IrpeTable(
            self.irpe,
            self.num_heads,
            self.head_dim,
            values=True,
            param_dtype=self.param_dtype,
            name="rpe_v",
        )(weights)
