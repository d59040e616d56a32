"""Distillation terms: learn from a teacher's outputs for the same augmented images."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.objectives.term import one_of
from vit_jax_tricks.typing import Array, Float


@dataclasses.dataclass(frozen=True)
class Distillation:
    """A term: distils the teacher's logits, `teacher_logits` [b, k].

    Several teachers, [t, b, k], give the mean of their losses.

    The student's logits are those of its distillation head, `logits_dist`; a model
    without that head uses its ordinary logits. DeiT weights the label loss 1 - a and
    this term a, with a = 0.5.

    Attributes:
      name: soft or hard.
      tau, scaling: as in `losses.soft_distillation`, 3 and textbook if None.

    Raises:
      UserError: an unknown name or scaling, tau <= 0, or an option that "hard" does not
        read.
    """

    name: str = "soft"
    tau: Number | None = None
    scaling: str | None = None

    def __post_init__(self) -> None:
        path = "config.loss.distillation"
        one_of(path, "name", self.name, ("soft", "hard"))
        if self.name == "hard" and self._options():
            key, value = next(iter(self._options().items()))
            raise UserError(
                f'{path}.{key}={value} does nothing for name="hard": leave it out, or '
                "use soft."
            )
        if self.tau is not None and not self.tau > 0:
            raise UserError(f"{path}.tau={self.tau}: expected above 0.")
        if self.scaling is not None:
            one_of(path, "scaling", self.scaling, losses.SCALINGS)

    def _options(self) -> dict[str, Any]:
        given = dict(tau=self.tau, scaling=self.scaling)
        return {k: v for k, v in given.items() if v is not None}

    def __call__(
        self,
        *,
        logits: Float[Array, "b k"],
        teacher_logits: Float[Array, "*t b c"],
        logits_dist: Float[Array, "b k"] | None = None,
    ) -> Float[Array, "b"]:
        student = logits if logits_dist is None else logits_dist
        if teacher_logits.shape[-2:] != student.shape:
            raise UserError(
                f"config.loss.distillation: the teacher's logits are "
                f"{teacher_logits.shape}, the student's {student.shape}; both need the "
                "same classes."
            )
        hard = self.name == "hard"
        loss: Any = losses.hard_distillation if hard else losses.soft_distillation
        options = self._options()
        if teacher_logits.ndim == 2:
            return loss(logits=student, teacher_logits=teacher_logits, **options)
        each = [
            loss(logits=student, teacher_logits=one, **options)
            for one in teacher_logits
        ]
        return jnp.stack(each).mean(0)


@dataclasses.dataclass(frozen=True)
class TokenDistillation:
    """A term: distils the teacher's patch tokens, `teacher_tokens` [b, n, d].

    They are compared with the `patch_tokens` of a model that drops tokens, at the
    tokens that its `keep` [s, b, n] still keeps after the last stage. The loss of an
    example is its share of the mean over all kept tokens of the batch. Equivalent to
    the token term of DynamicViT's DistillDiffPruningLoss_dynamic (tested).

    Attributes:
      name: mse, or kl for the divergence between softmaxes over the channels.

    Raises:
      UserError: an unknown name.
    """

    name: str = "mse"

    def __post_init__(self) -> None:
        one_of("config.loss.token_distillation", "name", self.name, ("mse", "kl"))

    def __call__(
        self,
        *,
        patch_tokens: Float[Array, "b n d"],
        keep: Float[Array, "s b n"],
        teacher_tokens: Float[Array, "b m c"],
    ) -> Float[Array, "b"]:
        if teacher_tokens.shape != patch_tokens.shape:
            raise UserError(
                f"config.loss.token_distillation: the teacher's tokens are "
                f"{teacher_tokens.shape}, the student's {patch_tokens.shape}; use a "
                "teacher of the same width and patches."
            )
        kept = keep[-1] > 0.5
        if self.name == "mse":
            each = losses.feature_distillation(
                features=patch_tokens, teacher_features=teacher_tokens, where=kept
            )
        else:
            each = losses.soft_distillation(
                logits=patch_tokens,
                teacher_logits=teacher_tokens,
                tau=1.0,
                where=kept,
            )
        count = jnp.maximum(kept.sum(dtype=each.dtype), 1)
        return each.sum(axis=1) * (len(each) / count)
