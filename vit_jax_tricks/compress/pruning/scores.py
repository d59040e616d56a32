"""Pure importance scores of heads and hidden neurons; higher ones are kept.

Each score is an average over a batch; the score of the data is the mean over batches. A
thousand or more images are typical.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from vit_jax_tricks.checks import checked, same_trees
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.layers.functional.precision import at_least_float32
from vit_jax_tricks.typing import Array, Float


@checked
def mean_attention(weights: Float[Array, "b g n m"]) -> Float[Array, "g"]:
    """Mean attention probability of each head, which is 1 / m for every head.

    Rows of a softmax sum to 1, so this score ranks heads by rounding noise only. It
    exists for comparison, not for use.
    """
    return _wide(weights).mean((0, 2, 3))


@checked
def attention_confidence(weights: Float[Array, "b g n m"]) -> Float[Array, "g"]:
    """Mean over images and queries of the largest probability, in [1 / m, 1].

    Source: Voita et al., 2019, arXiv:1905.09418.
    """
    return _wide(weights).max(-1).mean((0, 2))


@checked
def attention_entropy(weights: Float[Array, "b g n m"]) -> Float[Array, "g"]:
    """Negative mean entropy of the rows over log m: 0 if focused, -1 if uniform.

    sum_j A_ij log A_ij / log m, with 0 log 0 = 0.
    """
    weights = _wide(weights)
    safe = jnp.where(weights > 0, weights, 1)
    negative = (weights * jnp.log(safe)).sum(-1)
    return negative.mean((0, 2)) / jnp.log(float(weights.shape[-1]))


@checked
def class_attention(
    weights: Float[Array, "b g n m"], *, prefix: int = 1
) -> Float[Array, "g"]:
    """Attention of the class token to the patches: 1 - sum_{j < prefix} A_0j.

    `prefix` counts the tokens before the patches (class, distillation, registers).

    Raises: UserError if there is no prefix token, or nothing else.
    """
    if not 0 < prefix < weights.shape[-1]:
        raise UserError(
            f"prefix={prefix} of {weights.shape[-1]} tokens: class_attention needs a "
            "class token and patches; use another score for pooled models."
        )
    return _wide(weights)[:, :, 0, prefix:].sum(-1).mean(0)


@checked
def head_output_norm(
    outputs: Float[Array, "b n g h"], proj: Float[Array, "g h d"]
) -> Float[Array, "g"]:
    """Mean over tokens of |y_g W_g|, each head's addition to the residual stream.

    `outputs` are the heads' own outputs, attention times values, and `proj` is the
    kernel that follows. It is computed as |y W|^2 = y W W^T y^T, which avoids an array
    [b, n, g, d].
    """
    y, w = _wide(outputs), _wide(proj)
    gram = jnp.einsum("ghd,gkd->ghk", w, w)
    square = jnp.einsum("bngh,ghk,bngk->bng", y, gram, y)
    return jnp.sqrt(jnp.maximum(square, 0)).mean((0, 1))


@checked
def gate_gradients(
    outputs: Float[Array, "b n g h"],
    proj: Float[Array, "g h d"],
    upstream: Float[Array, "b n d"],
) -> Float[Array, "b g"]:
    """Gradient of each image's loss with respect to a gate on each head, at gates of 1.

    sum_n (y_g W_g) . dL / d out, where `upstream` is dL / d out at the projection's
    output for the sum of the images' losses.
    """
    y, w, upstream = _wide(outputs), _wide(proj), _wide(upstream)
    back = jnp.einsum("bnd,ghd->bngh", upstream, w)
    return (y * back).sum((1, 3))


@checked
def gate_importance(
    gradients: Float[Array, "b *l g"], *, normalize: bool = True
) -> Float[Array, "*l g"]:
    """Mean of |dL / d gate|, with the absolute value taken image by image.

    `normalize` divides the scores of each layer by their L2 norm, as the reference does
    before it ranks heads over all layers.

    Source: Michel et al., 2019, arXiv:1905.10650.
    """
    scores = jnp.abs(_wide(gradients)).mean(0)
    return normalize_layers(scores) if normalize else scores


@checked
def normalize_layers(scores: Float[Array, "*l g"]) -> Float[Array, "*l g"]:
    """Divides scores by the L2 norm of their layer (the last axis); zeros stay zero."""
    norm = jnp.sqrt(jnp.square(scores).sum(-1, keepdims=True))
    return scores / jnp.maximum(norm, jnp.finfo(scores.dtype).tiny)


@checked
def taylor(
    weights: Sequence[Float[Array, "..."]],
    gradients: Sequence[Float[Array, "..."]],
    axes: Sequence[int],
    *,
    kind: str = "abs",
) -> Float[Array, "s"]:
    """First-order change of the loss when structure s is removed from all the weights.

    Structure s is index s of each weight along its axis in `axes`: for a head,
    `qkv/kernel` axis 2, `qkv/bias` 1 and `proj/kernel` 0; for a hidden neuron,
    `fc1/kernel` 1, `fc1/bias` 0 and `fc2/kernel` 0. "abs" is sum |w g|, "square" is
    (sum w g)^2.

    Raises: UserError for an unknown kind, or unequal numbers of structures.
    Source: Molchanov et al., 2019, arXiv:1906.10771.
    """
    if kind not in ("abs", "square"):
        raise UserError(f'kind="{kind}" is unknown: "abs" or "square".')
    same_trees("taylor", weights=list(weights), gradients=list(gradients))
    numbers = [w.shape[axis] for w, axis in zip(weights, axes, strict=True)]
    if len(set(numbers)) != 1:
        raise UserError(
            f"axes {tuple(axes)} hold {numbers} structures: each weight must have the "
            "same number."
        )
    products = []
    for w, g, axis in zip(weights, gradients, axes, strict=True):
        product = jnp.moveaxis(_wide(w) * _wide(g), axis, 0).reshape(numbers[0], -1)
        product = jnp.abs(product) if kind == "abs" else product
        products.append(product.sum(1))
    total = sum(products[1:], start=products[0])
    return total if kind == "abs" else jnp.square(total)


@checked
def neuron_output_norm(
    hidden: Float[Array, "*b s"], fc2: Float[Array, "s d"]
) -> Float[Array, "s"]:
    """Mean of |a_s| |W_s|, each hidden neuron's addition to the residual stream.

    `hidden` are the activations after the nonlinearity, `fc2` is the kernel that
    follows.
    """
    a = jnp.abs(_wide(hidden)).reshape(-1, hidden.shape[-1]).mean(0)
    return a * jnp.sqrt(jnp.square(_wide(fc2)).sum(1))


def _wide(x: Array) -> Array:
    return jnp.asarray(x).astype(at_least_float32(x.dtype))
