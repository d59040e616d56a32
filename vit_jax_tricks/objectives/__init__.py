"""Training objectives: a weighted sum of terms, each of which says what it reads.

A new trick is a new file here, its entry in `TERMS` and a key under `config.loss`; the
step and the loop stay unchanged.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.objectives.classification import Classification
from vit_jax_tricks.objectives.distillation import Distillation, TokenDistillation
from vit_jax_tricks.objectives.keep_ratio import KeepRatio
from vit_jax_tricks.objectives.r_drop import RDrop
from vit_jax_tricks.objectives.term import Entry, Outputs, Readings, Term, within
from vit_jax_tricks.objectives.token_labels import TokenLabels
from vit_jax_tricks.typing import Array, Float


LABELS = "classification"  # the term that compares outputs with labels
TERMS = {
    LABELS: Entry(
        Classification,
        (
            "label_smoothing",
            "binary_cross_entropy",
            "focal_loss",
            "distillation",
            "token_labels",
        ),
    ),
    "distillation": Entry(Distillation, ("distillation",), "dist_weight"),
    "keep_ratio": Entry(KeepRatio, ("keep_ratio",)),
    "r_drop": Entry(RDrop, ("r_drop",)),
    "token_distillation": Entry(TokenDistillation, ("distillation",)),
    "token_labels": Entry(TokenLabels, ("token_labels",), "dense_weight"),
}


class Objective:
    """Weighted sum of the terms of `config.loss`.

    `needs` is the set of targets, by name, that the terms read. A call returns the
    total loss [b] and a dict with each term's unweighted loss [b].

    Raises:
      UserError: an unknown term or option, a negative weight, or two terms that would
        both train the same head.
    """

    def __init__(self, sections: Mapping[str, Mapping[str, Any]]):
        self.terms: dict[str, tuple[float, Term]] = {}
        for key, section in sections.items():
            options = dict(section)
            if key not in TERMS:
                hint = nearest(key, TERMS)
                raise UserError(f"config.loss.{key}: there is no such term.{hint}")
            weight = options.pop("weight", 1.0)
            within(f"config.loss.{key}", "weight", weight)
            self.terms[key] = (weight, _make(key, options))
        if not self.terms:
            raise UserError(f"config.loss has no term; give one, such as {LABELS}.")
        entries = {key: TERMS[key] for key in self.terms}
        self.needs = frozenset().union(*(entry.needs for entry in entries.values()))
        weight, labels = self.terms.get(LABELS, (0, None))
        for key, entry in entries.items():
            if labels is None and not entry.reads.get("label_loss", True):
                raise UserError(
                    f"config.loss.{key} needs config.loss.{LABELS}, the loss of each "
                    "pass on the labels; add it."
                )
            if entry.head and weight and getattr(labels, entry.head):
                raise UserError(
                    f"config.loss.{key} and config.loss.{LABELS} would train one head: "
                    f"set config.loss.{LABELS}.{entry.head}=0."
                )

    def __call__(
        self, readings: Readings
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        def label_loss(logits: Array, aux: Outputs) -> Array:
            again = dataclasses.replace(readings, logits=logits, aux=aux)
            return self._loss(LABELS, again)

        given = dataclasses.replace(readings, label_loss=label_loss)
        losses = {name: self._loss(name, given) for name in self.terms}
        total = jnp.zeros(readings.logits.shape[:1], readings.logits.dtype)
        for name, loss in losses.items():
            total = total + self.terms[name][0] * loss
        return total, losses

    def _loss(self, name: str, readings: Readings) -> Array:
        _, term = self.terms[name]
        return term(**readings.of(name, TERMS[name].reads))


def _make(key: str, options: dict[str, Any]) -> Term:
    parameters = inspect.signature(TERMS[key].make).parameters
    for option in options:
        if option not in parameters:
            hint = nearest(option, [*parameters, "weight"])
            raise UserError(f"config.loss.{key}.{option}: there is no such key.{hint}")
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in options:
            raise UserError(f"config.loss.{key}.{name}: missing; give a value.")
    return TERMS[key].make(**options)
