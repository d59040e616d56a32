"""Scores all heads and hidden units of a model from a few batches."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax_tricks.checks import checked
from vit_jax_tricks.compress.inputs import pairs
from vit_jax_tricks.compress.pruning import scores
from vit_jax_tricks.compress.pruning.checks import check_groups
from vit_jax_tricks.compress.pruning.gates import gated_apply
from vit_jax_tricks.compress.pruning.groups import Group, unrolled
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.models.stacking import unstacked
from vit_jax_tricks.param_names import by_path
from vit_jax_tricks.typing import Array, Float, Integer


Scores = dict[str, Array]  # group name -> scores [size]
# Scores of heads from attention probabilities [b, g, n, m]; hidden units are scored by
# |activation| |outgoing weights|. Entropies are shifted so that uniform gives 0.
ATTENTION: dict[str, Callable[[Array], Array]] = {
    "confidence": scores.attention_confidence,
    "entropy": lambda weights: 1 + scores.attention_entropy(weights),
    "class_attention": scores.class_attention,
    "mean_attention": scores.mean_attention,
}
CRITERIA = ("gradient", "taylor", "output_norm", *ATTENTION)
# In units of the loss, so that heads and hidden units of all layers are comparable.
OF_THE_LOSS = ("gradient", "taylor")


@checked
def score_batch(
    variables: Any,
    images: Float[Array, "b h w c"],
    labels: Integer[Array, "b"],
    *,
    model: Any,
    groups: Mapping[str, Group],
    criterion: str,
) -> Scores:
    """Scores of one batch; higher ones are kept.

    "gradient" is E |dL / d gate|, image by image (Michel et al., 2019,
    arXiv:1905.10650); "taylor" is sum |w dL/dw| over the weights (Molchanov et al.,
    2019, arXiv:1906.10771); "output_norm" is the norm of what a head or unit adds to
    the residual stream. The others score heads by their attention and hidden units by
    their output norm. L is the cross-entropy of the logits.

    Raises: UserError for images or labels of another shape or dtype, groups of another
      model, and as `check_criterion` does.
    """
    check_criterion(model, criterion)
    model, variables = unrolled(model), unstacked(variables)
    if criterion == "taylor":
        return _taylor(variables, images, labels, model=model, groups=groups)
    if criterion == "gradient":
        ones = {n: jnp.ones((len(images), g.size)) for n, g in groups.items()}

        def loss(gates: Mapping[str, Array]) -> Array:
            (logits, _), _ = gated_apply(model, variables, images, groups, gates)
            return _cross_entropy(logits, labels).sum()

        gradients = jax.grad(loss)(ones)
        return {
            name: scores.gate_importance(gradient, normalize=False)
            for name, gradient in gradients.items()
        }
    _, seen = gated_apply(model, variables, images, groups, {})
    params = by_path(variables["params"])
    of_weights = ATTENTION.get(criterion)
    if criterion == "class_attention":
        prefix = model.prefix_tokens
        of_weights = functools.partial(scores.class_attention, prefix=prefix)
    found = {}
    for name, group in groups.items():
        outputs, kernel = seen[group.place], params[f"{group.place}/kernel"]
        if group.kind == "hidden":
            found[name] = scores.neuron_output_norm(outputs, kernel)
        elif of_weights is None:
            flat = outputs.reshape(len(images), -1, *outputs.shape[-2:])
            found[name] = scores.head_output_norm(flat, kernel)
        else:
            weights = seen[group.layer]
            found[name] = of_weights(weights.reshape(-1, *weights.shape[-3:]))
    return found


def score(
    model: Any,
    variables: Any,
    batches: Iterable[tuple[Array, Array]],
    groups: Mapping[str, Group],
    criterion: str,
) -> dict[str, Float[np.ndarray, "s"]]:
    """Mean scores over batches of (normalised images, labels), by group.

    A thousand or more images are typical.

    Raises: UserError for an unknown criterion, one that the model does not support, no
      batch, and scores that are not finite.
    """
    check_criterion(model, criterion)
    model = unrolled(model)
    step = jax.jit(
        functools.partial(score_batch, model=model, groups=groups, criterion=criterion)
    )
    total: dict[str, np.ndarray] = {}
    count = 0
    for images, labels in pairs("prune", batches, model):
        one = jax.device_get(step(variables, images, labels))
        for name, values in one.items():
            wide = np.asarray(values, np.float64) * len(images)
            total[name] = total.get(name, 0.0) + wide
        count += len(images)
    for name, values in total.items():
        if not np.isfinite(values).all():
            raise UserError(
                f"{name} has scores that are not finite: check the images and weights."
            )
    return {name: values / count for name, values in total.items()}


def check_criterion(model: Any, criterion: str) -> None:
    """Raises UserError for an unknown criterion, or one without its class token."""
    if criterion not in CRITERIA:
        raise UserError(
            f'criterion "{criterion}" is unknown.{nearest(criterion, CRITERIA)}'
        )
    if criterion == "class_attention" and not model.class_token_in_every_block:
        raise UserError(
            "class_attention needs a class token in every block, but "
            f"{type(model).__name__} lacks one here; use another criterion."
        )


def _taylor(
    variables: Any,
    images: Array,
    labels: Array,
    *,
    model: Any,
    groups: Mapping[str, Group],
) -> Scores:
    weights = by_path(variables["params"])
    check_groups("score_batch", groups, weights)
    rest = {k: v for k, v in variables.items() if k != "params"}

    def loss(params: Any) -> Array:
        logits, _ = model.apply({**rest, "params": params}, images, train=False)
        return _cross_entropy(logits, labels).mean()

    gradients = by_path(jax.grad(loss)(variables["params"]))
    found = {}
    for name, group in groups.items():
        parts: list[tuple[Array, Array, int]] = []
        for path, (axis, copies) in group.axes.items():
            pair = (weights[path], gradients[path])
            cut = (jnp.split(x, copies, axis) for x in pair)
            parts += [(w, g, axis) for w, g in zip(*cut, strict=True)]
        found[name] = scores.taylor(*map(list, zip(*parts, strict=True)))
    return found


def _cross_entropy(logits: Array, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
