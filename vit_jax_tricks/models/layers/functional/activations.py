"""Activation functions, by the names that configs use."""

from collections.abc import Callable
from functools import partial

import jax

from vit_jax_tricks.typing import Array, Float


def quick_gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Sigmoid approximation of GELU: x * sigmoid(1.702 x).

    Source: Hendrycks and Gimpel, 2016, arXiv:1606.08415, section 2; used by CLIP.
    """
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
