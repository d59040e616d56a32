"""What a step optimises: weighted terms, each a function of outputs and labels.

A term maps `(logits [b, k], aux, labels [b, k])` to losses [b]. A new trick is a new
file here and a key under `config.loss`; the step and the loop do not change.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.objectives.classification import classification
from vit_jax_tricks.typing import Array, Float


Term = Callable[..., Float[Array, "b"]]
TERMS: dict[str, Callable[..., Term]] = {"classification": classification}


class Objective:
    """The weighted sum of the terms of `config.loss`.

    Calling it returns the total loss [b] and each term's unweighted loss [b] by name.
    """

    def __init__(self, sections: Mapping[str, Mapping[str, Any]]):
        self.terms: dict[str, tuple[float, Term]] = {}
        for key, section in sections.items():
            if key not in TERMS:
                hint = nearest(key, TERMS)
                raise UserError(f"config.loss.{key}: there is no such term.{hint}")
            options = dict(section)
            weight = options.pop("weight")
            self.terms[key] = (weight, TERMS[key](**options))

    def __call__(
        self, *, logits: Float[Array, "b k"], aux: dict, labels: Float[Array, "b k"]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        losses = {
            name: term(logits=logits, aux=aux, labels=labels)
            for name, (_, term) in self.terms.items()
        }
        total = jnp.zeros(logits.shape[:1], logits.dtype)
        for name, loss in losses.items():
            total = total + self.terms[name][0] * loss
        return total, losses
