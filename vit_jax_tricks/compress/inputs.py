"""Checks of what compression and export take: model, variables and batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from vit_jax_tricks.checks import given
from vit_jax_tricks.compress.quant.range_store import KEY
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array


def check_float(fn: str, model: Any, variables: Any) -> None:
    """Raises UserError unless these are a module and its variables, not quantised.

    `fn` is the name of the caller.
    """
    if not isinstance(model, nn.Module):  # an argument may be anything
        raise UserError(
            f"{fn}: model is {given(model)}; expected a Flax module such as "
            "create_model makes. Of a QuantizedModel, give its .model."
        )
    if not isinstance(variables, Mapping) or (variables and "params" not in variables):
        raise UserError(
            f'{fn}: variables has no "params"; give all that model.init or '
            'load_pretrained returns, {"params": ...}.'
        )
    if KEY in variables.get("params", {}):
        raise UserError(
            f'{fn}: variables["params"] has "{KEY}", the ranges of a quantised model; '
            "give compress.without_ranges(variables)."
        )


def pairs(
    fn: str, batches: Iterable[tuple[Array, Array]], model: Any
) -> Iterator[tuple[Array, Array]]:
    """Yields the batches, each a pair of images and labels of the model's classes.

    Raises: UserError for no batch, anything but a pair, and labels outside the classes.
    """
    classes = getattr(model, "num_classes", None)  # of any Flax module, if it has some

    def check(batch: Any) -> None:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise UserError(
                f"{fn}: a batch is {given(batch)}; expected a pair (images, labels): "
                "give a list of pairs, [(images, labels)]."
            )
        _check_classes(fn, batch[1], classes)

    yield from _checked(fn, batches, check)


def only_images(fn: str, batches: Iterable[Array]) -> Iterator[Array]:
    """Yields the batches, each an array of images.

    Raises: UserError for no batch, and for pairs or one array instead of batches.
    """
    if hasattr(batches, "shape"):
        raise UserError(
            f"{fn}: batches is {given(batches)}; expected an iterable of batches: give "
            "[images] for a single one."
        )

    def check(batch: Any) -> None:
        if isinstance(batch, (tuple, list)):
            raise UserError(
                f"{fn}: a batch is {given(batch)}; expected images alone: give "
                "(images for images, labels in batches)."
            )

    yield from _checked(fn, batches, check)


def _checked(
    fn: str, batches: Iterable[Any], check: Callable[[Any], None]
) -> Iterator[Any]:
    """Yields the batches that pass `check`. Raises UserError for no batch."""
    empty = True
    for batch in batches:
        check(batch)
        yield batch
        empty = False
    if empty:
        raise UserError(f"{fn} got no batch of images: give at least one.")


def _check_classes(fn: str, labels: Any, classes: int | None) -> None:
    if not classes or getattr(labels, "ndim", None) != 1 or not len(labels):
        return  # the shape is checked where the labels are used
    values = np.asarray(labels)
    if np.issubdtype(values.dtype, np.integer):
        odd = values[(values < 0) | (values >= classes)]
        if odd.size:
            raise UserError(
                f"{fn}: labels has {odd[0]}, but the model has {classes} classes; "
                f"expected 0 to {classes - 1}."
            )
