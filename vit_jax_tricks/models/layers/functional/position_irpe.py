"""Image relative position encoding (iRPE): tables indexed by buckets of offsets.

Source: Wu et al., 2021, arXiv:2107.14222; microsoft/Cream `irpe.py`.
"""

import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.typing import Array, Float, Int, Num


# Methods that map offsets to buckets, with the ratio of the released models. "cross" is
# the sum of two encodings, "rows" and "columns".
IRPE_RATIOS = {"product": 1.9, "euclidean": 20.0, "quant": 33.0, "cross": 20.0}


def piecewise_index(x: Num[np.ndarray, "*s"], ratio: float) -> Int[np.ndarray, "*s"]:
    """Maps offsets to integers: exact near 0, logarithmic beyond, at most 2 ratio.

    With a = ratio, b = 2a, c = 8a: round(x) for |x| <= a, otherwise sign(x) min(round(a
    + ln(|x| / a) / ln(c / a) (b - a)), b), truncated to an integer (equation 18).

    Source: `piecewise_index` of microsoft/Cream, with its alpha, beta and gamma.
    """
    alpha, beta, gamma = ratio, 2 * ratio, 8 * ratio
    size = np.maximum(np.abs(x), alpha)
    far = alpha + np.log(size / alpha) / np.log(gamma / alpha) * (beta - alpha)
    far = np.sign(x) * np.minimum(np.round(far), beta)
    return np.where(np.abs(x) <= alpha, np.round(x), np.trunc(far)).astype(np.int32)


def irpe_buckets(
    grid: tuple[int, int], method: str, ratio: float, *, prefix: int = 0
) -> tuple[Int[np.ndarray, "n n"], int]:
    """Bucket of each (query i, key j) on a grid, row-major, and the bucket count.

    With g = `piecewise_index`, (r, c) the offset query - key, and B = int(2 ratio):
    "euclidean": g(round(|(r, c)|)) + B; "quant": g(r^2 + c^2) + B; "rows": g(r) + B;
    "columns": g(c) + B; "product": (g(r) + B)(2B + 1) + g(c) + B. Pairs that include
    one of the leading `prefix` tokens share one additional bucket.

    Source: `get_bucket_ids_2d` of microsoft/Cream.
    """
    rows, columns = np.indices(grid).reshape(2, -1)
    r, c = (axis[:, None] - axis[None, :] for axis in (rows, columns))
    bound = int(2 * ratio)
    side = buckets = 2 * bound + 1
    if method == "product":
        ids = piecewise_index(r, ratio) + bound
        ids = ids * side + piecewise_index(c, ratio) + bound
        buckets = side**2
    else:
        distance = {
            "euclidean": np.round(np.sqrt(r**2 + c**2)),
            "quant": r**2 + c**2,
            "rows": r,
            "columns": c,
        }[method]
        ids = piecewise_index(distance, ratio) + bound
    if prefix:
        pads = ((prefix, 0), (prefix, 0))
        ids = np.pad(ids, pads, constant_values=buckets)
        buckets += 1
    return ids.astype(np.int32), buckets


def irpe_bias(
    table: Float[Array, "f r"], buckets: Int[np.ndarray, "n m"]
) -> Float[Array, "1 f n m"]:
    """Bias mode: table[f, buckets[n, m]] for each head, or with f = 1 for all heads."""
    return table[:, buckets][None]


def irpe_contextual(
    x: Float[Array, "b n g h"],
    table: Float[Array, "f h r"],
    buckets: Int[np.ndarray, "n m"],
) -> Float[Array, "b g n m"]:
    """Contextual mode on queries or keys x: x[n] . table[:, buckets[n, m]].

    `table` holds a vector for each bucket, per head or shared by all heads (f = 1).
    """
    table = table.astype(x.dtype)
    if table.shape[0] == x.shape[2]:
        scores = jnp.einsum("bngh,ghr->bgnr", x, table)
    else:
        scores = jnp.einsum("bngh,hr->bgnr", x, table[0])
    return jnp.take_along_axis(scores, buckets[None, None], axis=-1)


def irpe_values(
    weights: Float[Array, "b g n m"],
    table: Float[Array, "f r h"],
    buckets: Int[np.ndarray, "n m"],
) -> Float[Array, "b n g h"]:
    """Contextual mode on values: sum over m of weights[n, m] table[buckets[n, m]].

    `table` holds a vector for each bucket, per head or shared by all heads (f = 1).
    """
    g = weights.shape[1]
    values = table[:, buckets].astype(weights.dtype)
    if values.shape[0] == g:
        return jnp.einsum("bgnm,gnmh->bngh", weights, values)
    return jnp.einsum("bgnm,nmh->bngh", weights, values[0])
