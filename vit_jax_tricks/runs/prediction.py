"""Classifies pictures as a model's evaluation would see them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vit_jax_tricks import paths
from vit_jax_tricks.augment.pixels import normalize
from vit_jax_tricks.data.dataset import padded
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.runs.trained import Trained, load
from vit_jax_tricks.typing import Float, UInt8


BATCH = 32  # pictures per call of the model
Picture = str | os.PathLike | UInt8[np.ndarray, "p q c"]


class Prediction(NamedTuple):
    """The classes of a picture.

    Attributes:
      pixels: what the model sees.
      probabilities: of all classes.
      top: names and probabilities of the most probable classes, in order.
    """

    pixels: UInt8[np.ndarray, "h w c"]
    probabilities: Float[np.ndarray, "k"]
    top: list[tuple[str, float]]


def predict(
    trained: Trained | str | os.PathLike,
    pictures: Sequence[Picture],
    *,
    top: int = 5,
    names: Sequence[str] | None = None,
) -> Iterator[Prediction]:
    """Yields the prediction for each picture, in order.

    Args:
      trained: a model from `load`, or the workdir of a run.
      pictures: files, or uint8 arrays [h, w, c] of any size, RGB or grey like the data
        that the model was trained on.
      top: number of classes to list.
      names: of the classes; by default the run's, or "class 0", "class 1", ...

    Raises:
      UserError: a file that is missing or not a sound picture, an array that is not
        uint8 [h, w, c], another number of names, and as `load`.

    Example:
      (found,) = runs.predict("runs/digits", ["seven.png"])
      name, probability = found.top[0]
    """
    if not isinstance(trained, Trained):
        trained = load(trained)
    spec, model = trained.spec, trained.model
    names = class_names(trained) if names is None else names
    if len(names) != trained.num_classes:
        raise UserError(
            f"there are {len(names)} names; the model has {trained.num_classes} "
            "classes."
        )

    @jax.jit
    def classify(variables: Any, pixels: Any) -> Any:
        images = normalize(pixels, spec.mean, spec.std)
        return jax.nn.softmax(model.apply(variables, images, train=False)[0])

    size = min(BATCH, len(pictures))
    for start in range(0, len(pictures), max(size, 1)):
        part = pictures[start : start + size]
        seen = np.stack([_seen(trained, picture) for picture in part])
        batch = padded({"image": seen}, size)
        found = classify(trained.variables[""], batch["image"])
        for pixels, chances in zip(seen, np.asarray(found, np.float32), strict=False):
            best = np.argsort(-chances, kind="stable")[:top]
            ranked = [(names[int(k)], float(chances[k])) for k in best]
            yield Prediction(pixels, chances, ranked)


def class_names(trained: Trained) -> Sequence[str]:
    """The run's names of the classes, or else their numbers."""
    known = trained.spec.class_names
    return known or [f"class {k}" for k in range(trained.num_classes)]


def _seen(trained: Trained, picture: Picture) -> UInt8[np.ndarray, "h w c"]:
    view = trained.spec.view
    if isinstance(picture, np.ndarray):
        fits = picture.ndim == 3 and picture.shape[2] == view.channels
        if not fits or picture.dtype != np.uint8:
            raise UserError(
                f"a picture is {picture.dtype} {picture.shape}; expected uint8 "
                f"[h, w, {view.channels}]."
            )
        return view.test(picture)
    file = picture_file(picture)
    try:
        return view.test(file.read_bytes())
    except UserError as error:
        raise UserError(f"{file}: {error}; give a sound picture.") from error


def picture_file(place: str | os.PathLike) -> Path:
    """The path of a file. Raises UserError if there is none."""
    file = paths.local(place)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise UserError(f"{file} {what}; give the paths of pictures.")
    return file
