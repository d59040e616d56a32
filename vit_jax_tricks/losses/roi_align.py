"""Region-of-interest pooling: averages over a box with fractional edges."""

import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import prepared
from vit_jax_tricks.typing import Array, Float


@checked
def roi_align(
    maps: Float[Array, "b h w k"],
    boxes: Float[Array, "b 4"],
    *,
    size: tuple[int, int],
    samples: int | None = None,
    aligned: bool = False,
) -> Float[Array, "b p q k"]:
    """Pools one box of each map to `size` cells, each the mean of bilinear samples.

    Args:
      maps: cell (y, x) holds the value at the point (y, x) or, if `aligned`, at its
        centre (y + 1/2, x + 1/2).
      boxes: (top, left, bottom, right) in cells.
      size: rows and columns of the output.
      samples: samples per output cell along each side; None takes the cell's length in
        map cells, rounded up.
      aligned: see `maps`; unless aligned, boxes shorter than 1 are enlarged to 1.

    Raises: UserError for a size or number of samples below 1.
    Equivalent to torchvision's roi_align with one box for each map (tested).
    Source: He et al., 2017, arXiv:1703.06870.
    """
    if min(size) < 1 or (samples is not None and samples < 1):
        raise UserError(f"size={size}, samples={samples}: expected 1 or more.")
    maps, boxes = prepared(None, maps, boxes)
    rows, columns = (
        _weights(boxes[:, axis], boxes[:, axis + 2], cells, out, samples, aligned)
        for axis, cells, out in zip((0, 1), maps.shape[1:3], size, strict=True)
    )
    return jnp.einsum("bph,bqw,bhwk->bpqk", rows, columns, maps, precision="highest")


def _weights(
    start: Float[Array, "b"],
    end: Float[Array, "b"],
    cells: int,
    out: int,
    samples: int | None,
    aligned: bool,
) -> Float[Array, "b p h"]:
    """Weight of each cell along one side in each output cell."""
    if aligned:
        start, end = start - 0.5, end - 0.5
    length = end - start if aligned else jnp.maximum(end - start, 1)
    step = (length / out)[:, None, None]
    most = cells if samples is None else samples
    count = jnp.ceil(step) if samples is None else jnp.full_like(step, samples)
    p = jnp.arange(out, dtype=start.dtype)[None, :, None]
    i = jnp.arange(most, dtype=start.dtype)[None, None]
    place = start[:, None, None] + p * step
    place = place + (i + 0.5) * (step / jnp.maximum(count, 1))
    place = jnp.clip(place, 0, cells - 1)[..., None]
    centre = jnp.arange(cells, dtype=start.dtype)[None, None, None]
    near = jnp.maximum(1 - jnp.abs(place - centre), 0)
    counted = (i < count)[..., None]
    return jnp.where(counted, near, 0).sum(2) / jnp.maximum(count, 1)
