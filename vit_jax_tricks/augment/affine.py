"""Random rotation, translation, zoom and shear, with bilinear resampling."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment.warp import affine_positions, sample
from vit_jax_tricks.checks import checked
from vit_jax_tricks.random import example_keys
from vit_jax_tricks.typing import Array, Float, Integer, Num, Pixels, PRNGKeyArray


@checked
def bilinear_sample(
    images: Pixels[Array, "b h w c"],
    y: Float[Array, "b h2 w2"],
    x: Float[Array, "b h2 w2"],
) -> Num[Array, "b h2 w2 c"]:
    """Samples at real pixel positions (0 is the centre of the first pixel); 0 outside.

        sum_ij image[i, j] max(0, 1 - |y - i|) max(0, 1 - |x - j|)

    Unlike `affine_warp`, which ends at the edge, this fades to 0 over half a pixel, as
    torch's grid_sample does.
    """
    return _fading_sample(images, y + 0.5, x + 0.5)


def _fading_sample(
    images: Num[Array, "b h w c"],
    y: Float[Array, "b h2 w2"],
    x: Float[Array, "b h2 w2"],
) -> Num[Array, "b h2 w2 c"]:
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sample(padded, y + 1, x + 1, fill=0.0, interpolation="bilinear")


def draw_about_centre(
    key: PRNGKeyArray,
    index: Integer[Array, "b"],
    size: tuple[int, int],
    degrees: float,
    translate: float,
    scale: tuple[float, float],
    shear: float,
) -> Float[Array, "b 6"]:
    """Draws matrices that act on positions relative to the centre."""
    h, w = size
    low = jnp.array([-degrees, -translate * h, -translate * w, scale[0], -shear])
    high = jnp.array([degrees, translate * h, translate * w, scale[1], shear])

    def matrix(k: PRNGKeyArray) -> jax.Array:
        draws = jax.random.uniform(k, (5,), low.dtype, low, high)
        angle, dy, dx, zoom, slant = draws
        sin, cos = jnp.sin(jnp.deg2rad(angle)), jnp.cos(jnp.deg2rad(angle))
        tan = jnp.tan(jnp.deg2rad(slant))
        y_x, y_y = -sin / zoom, cos / zoom
        x_x, x_y = cos / zoom + tan * y_x, sin / zoom + tan * y_y
        dy, dx = jnp.round(dy), jnp.round(dx)
        start_y, start_x = -y_x * dx - y_y * dy, -x_x * dx - x_y * dy
        return jnp.stack([x_x, x_y, start_x, y_x, y_y, start_y])

    return jax.vmap(matrix)(example_keys(key, index))


@checked
def random_affine_matrix(
    key: PRNGKeyArray,
    index: Integer[Array, "b"],
    size: tuple[int, int],
    *,
    degrees: float = 0.0,
    translate: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shear: float = 0.0,
) -> Float[Array, "b 6"]:
    """The matrices of `random_affine` for images of `size` (h, w), as in `affine_warp`.

    The linear part is R(-a) / s, sheared; it maps output positions to input positions.
    """
    limits = degrees, translate, scale, shear
    return from_corner(draw_about_centre(key, index, size, *limits), size)


def from_corner(
    matrix: Float[Array, "b 6"], size: tuple[int, int]
) -> Float[Array, "b 6"]:
    """Matrices about the centre of images (h, w), as in `affine_warp`."""
    (a, b, c), (d, e, f) = matrix.reshape(-1, 2, 3).transpose(1, 2, 0)
    y, x = size[0] / 2, size[1] / 2
    return jnp.stack([a, b, c + x - a * x - b * y, d, e, f + y - d * x - e * y], axis=1)


@checked
def random_affine(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    degrees: float = 0.0,
    translate: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shear: float = 0.0,
) -> Num[Array, "b h w c"]:
    """Applies a random affine map to each image about its centre; outside is black.

    out = s R(a) [[1, -tan t], [0, 1]] (in - centre) + centre + shift

    The angle a and the shear angle t are uniform in -degrees..degrees and -shear..shear
    (degrees), s is uniform in `scale`, and the shift is uniform in
    -translate..translate (fractions of the side), rounded to whole pixels. Each image's
    draw depends only on (key, its index).

    Equal in distribution to torchvision's RandomAffine with bilinear interpolation.
    """
    size = images.shape[1], images.shape[2]
    limits = degrees, translate, scale, shear
    return warp_about_centre(images, draw_about_centre(key, index, size, *limits))


def warp_about_centre(
    images: Num[Array, "b h w c"], matrix: Float[Array, "b 6"]
) -> Num[Array, "b h w c"]:
    """The images of `random_affine` for given matrices about the centre."""
    h, w = images.shape[1:3]
    y, x = affine_positions(matrix, (h, w), origin=(h / 2, w / 2))
    return _fading_sample(images, y, x)
