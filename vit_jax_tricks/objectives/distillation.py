"""Distillation terms: learn from a teacher's outputs for the same augmented images."""

from typing import Any

import jax.numpy as jnp

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.objectives.term import Term, one_of, output, target


def distillation(
    *, name: str = "soft", tau: Number | None = None, scaling: str | None = None
) -> Term:
    """A term: distils the teacher's logits, targets["teacher_logits"] [b, k].

    Several teachers, [t, b, k], give the mean of their losses.

    The student's logits are those of its distillation head, aux["logits_dist"]; a model
    without that head uses its ordinary logits. DeiT weights the label loss 1 - a and
    this term a, with a = 0.5.

    Args:
      name: soft or hard.
      tau, scaling: as in `losses.soft_distillation`, 3 and textbook if None.

    Raises:
      UserError: an unknown name or scaling, tau <= 0, an option that "hard" does not
        read, or a missing target.
    """
    path = "config.loss.distillation"
    one_of(path, "name", name, ("soft", "hard"))
    given = dict(tau=tau, scaling=scaling)
    options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if name == "hard" and options:
        key = next(iter(options))
        raise UserError(
            f'{path}.{key}={options[key]} does nothing for name="hard": leave it out, '
            "or use soft."
        )
    if tau is not None and not tau > 0:
        raise UserError(f"{path}.tau={tau}: expected above 0.")
    if scaling is not None:
        one_of(path, "scaling", scaling, losses.SCALINGS)

    hard = name == "hard"
    loss: Any = losses.hard_distillation if hard else losses.soft_distillation

    def term(*, logits, aux, labels, targets=None):
        teacher = target(targets, "teacher_logits", "distillation")
        student = aux.get("logits_dist", logits)
        if teacher.shape[-2:] != student.shape:
            raise UserError(
                f"{path}: the teacher's logits are {teacher.shape}, "
                f"the student's {student.shape}; both need the same classes."
            )
        if teacher.ndim == 2:
            return loss(logits=student, teacher_logits=teacher, **options)
        each = [loss(logits=student, teacher_logits=t, **options) for t in teacher]
        return jnp.stack(each).mean(0)

    return term


def token_distillation(*, name: str = "mse") -> Term:
    """A term: distils the teacher's patch tokens, targets["teacher_tokens"] [b, n, d].

    They are compared with aux["patch_tokens"] of a model that drops tokens, at the
    tokens that aux["keep"] [s, b, n] still keeps after the last stage. The loss of an
    example is its share of the mean over all kept tokens of the batch. Equivalent to
    the token term of DynamicViT's DistillDiffPruningLoss_dynamic (tested).

    Args:
      name: mse, or kl for the divergence between softmaxes over the channels.

    Raises:
      UserError: an unknown name, or a missing output or target.
    """
    one_of("config.loss.token_distillation", "name", name, ("mse", "kl"))

    def term(*, logits, aux, labels, targets=None):
        teacher = target(targets, "teacher_tokens", "token_distillation")
        student = output(aux, "patch_tokens", "token_distillation")
        if teacher.shape != student.shape:
            raise UserError(
                f"config.loss.token_distillation: the teacher's tokens are "
                f"{teacher.shape}, the student's {student.shape}; use a teacher of the "
                "same width and patches."
            )
        keep = output(aux, "keep", "token_distillation")[-1] > 0.5
        if name == "mse":
            each = losses.feature_distillation(
                features=student, teacher_features=teacher, where=keep
            )
        else:
            each = losses.soft_distillation(
                logits=student, teacher_logits=teacher, tau=1.0, where=keep
            )
        count = jnp.maximum(keep.sum(dtype=each.dtype), 1)
        return each.sum(axis=1) * (len(each) / count)

    return term
