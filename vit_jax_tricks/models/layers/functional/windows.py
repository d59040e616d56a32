"""Windows of a feature map: partition, cyclic shifts, masks and patch merging."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from einops import rearrange

from vit_jax_tricks.typing import Array, Bool, Float, Shaped


Size = tuple[int, int]


def window_partition(
    x: Shaped[Array, "b h w c"], window: Size
) -> Shaped[Array, "b m n c"]:
    """Cuts maps into m windows of n tokens, both row-major."""
    p, q = window
    return rearrange(x, "b (i p) (j q) c -> b (i j) (p q) c", p=p, q=q)


def window_reverse(
    windows: Shaped[Array, "b m n c"], window: Size, size: Size
) -> Shaped[Array, "b h w c"]:
    """Inverse of `window_partition` for maps of `size` = (h, w)."""
    p, q = window
    i = size[0] // p
    return rearrange(windows, "b (i j) (p q) c -> b (i p) (j q) c", i=i, p=p, q=q)


def fit_window(window: Size, size: Size, *, square: bool = False) -> tuple[Size, Size]:
    """Window for a map of `size`, and the shift of its shifted blocks.

    A window at least as large as the map is reduced to the map and does not shift; any
    other shifts by half a window. Each axis is handled separately, as in timm's
    `SwinTransformerBlock`. With `square`, the shorter side decides for both axes, as in
    microsoft/Swin-Transformer: min(size) <= window gives (min(size), min(size)).
    """
    if square:
        side, least = max(window), min(size)
        window = (least, least) if least <= side else (side, side)
        shift = (0, 0) if least <= side else (side // 2, side // 2)
        return window, shift
    h, w = (min(w, s) for w, s in zip(window, size, strict=True))
    dy, dx = (0 if s <= w else w // 2 for w, s in zip(window, size, strict=True))
    return (h, w), (dy, dx)


def shift_mask(
    size: Size, window: Size, shift: tuple[int, int] | tuple[Array, Array]
) -> Float[Array, "m n n"]:
    """Mask that each window adds to its attention logits after a cyclic shift.

    -100 between tokens that the shift brought together from opposite sides of the map,
    and 0 elsewhere. `shift` may be traced; 0 gives no mask along its axis. `size` must
    be a multiple of `window`.

    Source: Liu et al., 2021 (Swin), arXiv:2103.14030.
    """
    side = [
        jnp.where(jnp.arange(n) >= n - s, label, 0)
        for n, s, label in zip(size, shift, (2, 1), strict=True)
    ]
    region = (side[0][:, None] + side[1][None, :])[None, :, :, None]
    region = window_partition(region, window)[0, :, :, 0]
    same = region[:, :, None] == region[:, None, :]
    return jnp.where(same, 0.0, -100.0)


def masked_bias(
    bias: Float[Array, "g n n"],
    mask: Float[Array, "m n n"] | None,
    key_bias: Float[Array, "b m n"] | None = None,
) -> Float[Array, "#b #m g n n"]:
    """Position bias plus the window masks, as `attention` adds them to its logits.

    `key_bias` is added to the bias of each key.
    """
    if mask is None:
        both = bias[None, None]
    else:
        both = (bias[None] + mask[:, None].astype(bias.dtype))[None]
    if key_bias is None:
        return both
    return both + key_bias[:, :, None, None].astype(bias.dtype)


def over_windows(
    attend: Callable,
    x: Float[Array, "b h w c"],
    *,
    window: Size,
    shift: Size,
    shifted: bool | Bool[Array, ""],
) -> Float[Array, "b h w d"]:
    """Applies `attend(windows, mask)` to windows of a map, cyclically shifted or not.

    Rolls by -shift, pads with zeros at the bottom and right to whole windows, attends,
    crops, and rolls back. `mask` is None if nothing shifts; it separates tokens joined
    by the roll, but does not mask the padding. `shifted` may be traced, so that a scan
    over blocks can alternate. Equivalent to timm's `SwinTransformerBlock._attn`.
    """
    _, h, w, _ = x.shape
    size = -(-h // window[0]) * window[0], -(-w // window[1]) * window[1]
    pads = ((0, 0), (0, size[0] - h), (0, size[1] - w), (0, 0))
    if shifted is False or not any(shift):
        windows = window_partition(jnp.pad(x, pads), window)
        return window_reverse(attend(windows, None), window, size)[:, :h, :w]
    moves: Any = shift
    if shifted is not True:
        moves = tuple(jnp.where(shifted, s, 0) for s in shift)
    x = jnp.roll(x, [-s for s in moves], (1, 2))
    windows = window_partition(jnp.pad(x, pads), window)
    y = attend(windows, shift_mask(size, window, moves))
    return jnp.roll(window_reverse(y, window, size)[:, :h, :w], moves, (1, 2))


def merge_neighbours(x: Shaped[Array, "b h w c"]) -> Shaped[Array, "b i j f"]:
    """Stacks each 2x2 neighbourhood in the channels, f = 4c, which halves a map.

    The channel order is (0, 0), (1, 0), (0, 1), (1, 1), as (row, column) of the
    neighbour. Odd maps are padded with zeros at the bottom and right, as in timm.

    Source: patch merging of Liu et al., 2021 (Swin), arXiv:2103.14030.
    """
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    return rearrange(x, "b (i p) (j q) c -> b i j (q p c)", p=2, q=2)
