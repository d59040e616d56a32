"""Frozen teachers that provide targets for the training step."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks import paths, runs
from vit_jax_tricks.augment.pixels import normalize
from vit_jax_tricks.console import say
from vit_jax_tricks.data import Data
from vit_jax_tricks.errors import UserError, about
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.models.token_head import TokenHead
from vit_jax_tricks.objectives.targets import dense_labels
from vit_jax_tricks.runs.data import check_classes
from vit_jax_tricks.runs.trained import Trained, checksum
from vit_jax_tricks.teach.token_logits import token_logits
from vit_jax_tricks.typing import Array, Float, Params


EXPECTED = (
    "give the workdir of a run, or NAME@WEIGHTS: a name of list_models() and a weight "
    "file, a workdir or hub:owner/name"
)


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained model, with the form of its token logits if they are needed."""

    trained: Trained
    form: TokenHead | None

    @property
    def variables(self) -> Params:
        return self.trained.variables[""]

    def fingerprint(self) -> dict[str, str]:
        """Identifies the teacher, so that a resumed run can be compared."""
        return {
            "source": self.trained.source,
            "checksum": checksum(self.variables),
        }


def load(
    sources: Sequence[str],
    *,
    needs: frozenset[str],
    source: Data,
    dtype: Any,
) -> list[Teacher]:
    """Loads teachers and checks them against what the student needs.

    Args:
      sources: a workdir of ours, or NAME@WEIGHTS: a name of list_models() and a source
        for `load_pretrained`.
      needs: names of targets.
      source: the student's data.
      dtype: the compute dtype.

    Raises:
      UserError: a source that cannot be read, other classes or channels, or a teacher
        that cannot provide what is needed.
    """
    if len(sources) > 1 and "teacher_tokens" in needs:
        raise UserError(
            f"config.teacher.sources={tuple(sources)}: config.loss.token_distillation "
            "takes one teacher; give one."
        )
    teachers = []
    for place in sources:
        with about(f'config.teacher.sources, "{place}"'):
            trained = _trained(place, dtype)
            _check_channels(source, trained)
            check_classes(source, trained)
            dense = "token_labels" in needs
            form = trained.model.token_head() if dense else None
        teachers.append(Teacher(trained, form))
    return teachers


def _trained(source: str, dtype: Any) -> Trained:
    name, place = paths.teacher(source)
    if name is None and not Path(place).is_dir():
        what = "is a file" if Path(place).exists() else "does not exist"
        raise UserError(f"{place} {what}; {EXPECTED}.")
    if name == "":
        raise UserError(f"no model is named before the @; {EXPECTED}.")
    trained = runs.load(place, model=name, dtype=dtype)
    say(str(trained.reports[0]))
    return trained


def _check_channels(source: Data, trained: Trained) -> None:
    channels = trained.spec.view.channels
    if source.channels != channels:
        raise UserError(
            f"{source.name} has {source.channels} channel(s), but this teacher takes "
            f"{channels}; give one that was trained on such images."
        )


def teach(
    variables: Sequence[Params],
    images: Float[Array, "b h w c"],
    *,
    teachers: Sequence[Teacher],
    needs: frozenset[str],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    grid: tuple[int, int] | None,
    smoothing: Number = 0.0,
) -> dict[str, Array]:
    """The targets of a batch: the teachers' outputs for the student's own images.

    Each teacher sees them at its own size (resized bilinearly, with antialiasing) and
    with its own normalisation. Class and token labels are the mean over teachers.

    Args:
      variables: the variables of each teacher.
      images: as the student gets them: augmented, mixed and normalised.
      teachers: in the order of `variables`.
      needs: names of the targets.
      mean, std: the student's normalisation.
      grid: the student's token grid, for token_labels.
      smoothing: label smoothing of token and class labels.

    Returns:
      Those of teacher_logits [t, b, k], class_labels [b, k], token_labels [b, n, k] and
        teacher_tokens [b, n, d] that are needed.
    """
    labels_of = functools.partial(dense_labels, smoothing=smoothing)
    logits, image_labels, token_labels, out = [], [], [], {}
    for parameters, teacher in zip(variables, teachers, strict=True):
        model, spec = teacher.trained.model, teacher.trained.spec
        x = _as_seen(images, spec.view.size, (mean, std), (spec.mean, spec.std))
        if teacher.form is not None and grid is not None:
            found, maps = token_logits(model, parameters, x, teacher.form)
            whole = found[:, None, None]
            image_labels.append(labels_of(whole, grid=(1, 1))[:, 0])
            token_labels.append(labels_of(maps, grid=grid))
        else:
            found, aux = model.apply(parameters, x, train=False)
            if "teacher_tokens" in needs:
                prefix = model.prefix_tokens
                out["teacher_tokens"] = aux["tokens"][:, prefix:]
        logits.append(found)
    if "teacher_logits" in needs:
        out["teacher_logits"] = jnp.stack(logits)
    if token_labels:
        out["class_labels"] = jnp.stack(image_labels).mean(0)
        out["token_labels"] = jnp.stack(token_labels).mean(0)
    return out


def _as_seen(
    images: Float[Array, "b h w c"],
    size: tuple[int, int],
    now: tuple[tuple[float, ...], tuple[float, ...]],
    wanted: tuple[tuple[float, ...], tuple[float, ...]],
) -> Float[Array, "b h2 w2 c"]:
    """Converts images to another size and another (mean, std)."""
    if now != wanted:
        (mean, std), (other_mean, other_std) = now, wanted
        pairs = zip(mean, std, other_mean, strict=True)
        shift = tuple((other - mine) / scale for mine, scale, other in pairs)
        scale = tuple(s2 / s1 for s1, s2 in zip(std, other_std, strict=True))
        images = normalize(images, shift, scale)
    b, h, w, c = images.shape
    if (h, w) == size:
        return images
    return jax.image.resize(images, (b, *size, c), "linear")
