"""Random rotation, shift, zoom and shear, resampled bilinearly."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.random import example_keys
from vit_jax_tricks.typing import Array, Float, Int, PRNGKeyArray


def bilinear_sample(
    images: Float[Array, "b h w c"],
    y: Float[Array, "b h2 w2"],
    x: Float[Array, "b h2 w2"],
) -> Float[Array, "b h2 w2 c"]:
    """Values at real pixel positions (0 is the centre of the first pixel); 0 outside.

    sum_ij image[i, j] max(0, 1 - |y - i|) max(0, 1 - |x - j|)
    """
    b, h, w, c = images.shape
    rows = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(b, -1, c)
    y, x = jnp.clip(y, -1, h), jnp.clip(x, -1, w)
    y0 = jnp.clip(jnp.floor(y), -1, h - 1)
    x0 = jnp.clip(jnp.floor(x), -1, w - 1)
    down, right = (y - y0)[..., None], (x - x0)[..., None]
    # The top left of the four taps, in the padded image read row by row.
    first = (y0.astype(jnp.int32) + 1) * (w + 2) + x0.astype(jnp.int32) + 1

    def tap(offset: int) -> jax.Array:
        take = jax.vmap(lambda image, i: jnp.take(image, i, axis=0, mode="clip"))
        return take(rows, first + offset).astype(y.dtype)

    top = tap(0) * (1 - right) + tap(1) * right
    bottom = tap(w + 2) * (1 - right) + tap(w + 3) * right
    return (top * (1 - down) + bottom * down).astype(images.dtype)


def random_affine(
    key: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    index: Int[Array, "b"],
    *,
    degrees: float = 0.0,
    translate: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shear: float = 0.0,
) -> Float[Array, "b h w c"]:
    """One random affine map an image, about its centre; outside is black.

    out = s R(a) [[1, -tan t], [0, 1]] (in - centre) + centre + shift, with a and the
    shear angle t uniform in -degrees..degrees and -shear..shear (degrees), s uniform in
    `scale`, the shift uniform in -translate..translate (fractions of the side), rounded
    to whole pixels. An image's draw depends on (key, its index) alone.
    Equivalent in law to torchvision's RandomAffine with bilinear interpolation.
    """
    h, w = images.shape[1:3]
    dtype = jnp.float64 if images.dtype == jnp.float64 else jnp.float32

    def source(k: PRNGKeyArray) -> tuple[jax.Array, jax.Array]:
        """Where each output pixel comes from."""
        low = jnp.array([-degrees, -translate * h, -translate * w, scale[0], -shear])
        high = jnp.array([degrees, translate * h, translate * w, scale[1], shear])
        draws = jax.random.uniform(
            k, (5,), dtype, low.astype(dtype), high.astype(dtype)
        )
        angle, dy, dx, zoom, slant = draws
        sin, cos = jnp.sin(jnp.deg2rad(angle)), jnp.cos(jnp.deg2rad(angle))
        y, x = jnp.arange(h, dtype=dtype), jnp.arange(w, dtype=dtype)
        y = (y - (h - 1) / 2 - jnp.round(dy))[:, None]
        x = (x - (w - 1) / 2 - jnp.round(dx))[None]
        y, x = (cos * y - sin * x) / zoom, (cos * x + sin * y) / zoom
        x = x + jnp.tan(jnp.deg2rad(slant)) * y
        return y + (h - 1) / 2, x + (w - 1) / 2

    y, x = jax.vmap(source)(example_keys(key, index))
    return bilinear_sample(images, y, x)
