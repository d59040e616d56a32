"""Initialisation schemes under timm's names, for kernel and bias together.

Each returns the keyword arguments `kernel_init` and `bias_init` of a Flax layer with
`fan_in` inputs.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import TypedDict

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers.patch_embed import torch_uniform
from vit_jax_tricks.typing import Array, Float


class Inits(TypedDict):
    """Initialiser keyword arguments of a Flax layer."""

    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer


# timm's weight_init of CoAtNet; "" is PyTorch's default.
SCHEMES = ("vit_eff", "normal", "trunc_normal", "xavier_normal", "")


def vit(fan_in: int) -> Inits:
    """N(0, 0.02) for kernels and 0 for biases, as in timm's ViT layers."""
    del fan_in
    return Inits(
        kernel_init=nn.initializers.normal(0.02), bias_init=nn.initializers.zeros
    )


def conv(scheme: str, fan_in: int, *, groups: int = 1) -> Inits:
    """Initialisers of convolutions [.., in, out], by scheme.

    "vit_eff" is EfficientNet's N(0, sqrt(2 / fan_out)); fan_out counts the filter's own
    group: window x out / groups. Biases are 0.
    """
    if scheme != "vit_eff":
        return _common(scheme, fan_in)

    def kernel_init(key, shape, dtype=float):
        fan_out = math.prod(shape[:-2]) * shape[-1] // groups
        return nn.initializers.normal((2 / fan_out) ** 0.5)(key, shape, dtype)

    return Inits(kernel_init=kernel_init, bias_init=nn.initializers.zeros)


def linear(scheme: str, fan_in: int, *, mlp: bool = False) -> Inits:
    """Initialisers of linear layers [in, out], by scheme.

    "vit_eff" is U(-a, a) with a = sqrt(6 / (in + out)). Biases are 0, and N(0, 1e-6) in
    an MLP.
    """
    if scheme != "vit_eff":
        return _common(scheme, fan_in)
    small = nn.initializers.normal(1e-6) if mlp else nn.initializers.zeros
    return Inits(kernel_init=nn.initializers.xavier_uniform(), bias_init=small)


def _common(scheme: str, fan_in: int) -> Inits:
    """Schemes shared by convolutions and linear layers.

    "trunc_normal" is N(0, 0.02) truncated at two standard deviations and not rescaled;
    "xavier_normal" includes the window in both fans; PyTorch's default bounds weights
    and biases by 1 / sqrt(fan_in).
    """
    if not scheme:
        uniform = torch_uniform(fan_in)
        return Inits(kernel_init=uniform, bias_init=uniform)

    def xavier(key, shape, dtype=float):
        window = math.prod(shape[:-2])
        std = (2 / (window * (shape[-2] + shape[-1]))) ** 0.5
        return nn.initializers.normal(std)(key, shape, dtype)

    kernels = {
        "normal": nn.initializers.normal(0.02),
        "trunc_normal": nn.initializers.truncated_normal(0.02),
        "xavier_normal": xavier,
    }
    return Inits(kernel_init=kernels[scheme], bias_init=nn.initializers.zeros)


def scaled(inits: Inits, gain: Float[Array, ""] | float | None) -> Inits:
    """The same initialisers, with the kernel multiplied by `gain` unless it is None."""
    if gain is None:
        return inits

    def kernel_init(key, shape, dtype=float):
        return inits["kernel_init"](key, shape, dtype) * jnp.asarray(gain, dtype)

    return Inits(kernel_init=kernel_init, bias_init=inits["bias_init"])


def _eva_head(fan_in: int) -> Inits:
    return scaled(vit(fan_in), 0.001)


# timm's weight_init of ViTs: "" is its default, "reset" PyTorch's. "eva" is that of
# timm's `Eva` and `Beit`, which also has a small head, tokens as large as positions,
# zero bias tables, and the last kernel of each branch of block i divided by
# sqrt(2 (i + 1)).
VIT: dict[str, Callable[[int], Inits]] = {
    "": vit,
    "reset": partial(linear, ""),
    "eva": vit,
}
VIT_HEAD = VIT | {"eva": _eva_head}
