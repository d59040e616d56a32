"""Classifies pictures: `python -m vit_jax_tricks.predict --workdir=DIR IMAGE...`.

Prints the most probable classes of each picture. Pictures are prepared as in the
model's evaluation: its own size, crop, resampling and normalisation.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax_tricks.commands import command
from vit_jax_tricks.typing import Float, UInt8


if TYPE_CHECKING:
    from vit_jax_tricks.runs.model_flags import Trained
    from vit_jax_tricks.stop import Stop

BATCH = 32  # pictures per call of the model


USAGE = f"""{(__doc__ or "").strip()}

{command.MODEL_USAGE}\
  --labels=FILE          names of the classes, one per line, or a .json list
  --top=5                number of classes to print
  --picture=OUT.png      also draw the pictures beside their classes
  --help                 show this text
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(_predict, argv, USAGE)


def _predict(argv: list[str], stop: "Stop") -> None:
    from vit_jax_tricks.console import say
    from vit_jax_tricks.errors import UserError
    from vit_jax_tricks.inspect.prediction_sheet import MOST, write_sheet
    from vit_jax_tricks.runs import model_flags

    given = command.parse(
        argv,
        values=(*command.MODEL_VALUES, "labels", "top", "picture"),
        sections=("model",),
        words=True,
    )
    files = _files(given.words)
    top, picture = given.whole("top", 5), given.get("picture")
    if picture is not None and not picture.endswith(".png"):
        raise UserError(f"--picture={picture}: expected a name that ends in .png.")
    if picture is not None and len(files) > MOST:
        raise UserError(f"--picture shows up to {MOST} pictures; got {len(files)}.")
    trained = model_flags.load(given, resize=None)
    names = _names(trained, given.get("labels"))
    rows = []
    for file, pixels, probabilities in predictions(trained, files):
        best = np.argsort(-probabilities, kind="stable")[:top]
        ranked = [(names[k], float(probabilities[k])) for k in best]
        say(str(file))
        for name, probability in ranked:
            say(f"  {probability:7.2%}  {name}")
        rows.append((file.name, pixels, ranked))
    if picture is not None:
        say(f"picture: {write_sheet(Path(picture), rows)}")


def predictions(
    trained: "Trained", files: Sequence[Path]
) -> Iterator[tuple[Path, UInt8[np.ndarray, "h w c"], Float[np.ndarray, "k"]]]:
    """Yields each file with the pixels that the model sees and its class probabilities.

    Raises:
      UserError: a file that is not a sound picture.
    """
    import jax

    from vit_jax_tricks.augment.pixels import normalize
    from vit_jax_tricks.data.dataset import padded

    spec, model = trained.spec, trained.model
    variables = trained.variables[""]

    @jax.jit
    def classify(variables: Any, pixels: Any) -> Any:
        images = normalize(pixels, spec.mean, spec.std)
        return jax.nn.softmax(model.apply(variables, images, train=False)[0])

    size = min(BATCH, len(files))
    for start in range(0, len(files), size):
        part = files[start : start + size]
        pixels = np.stack([_view(trained, file) for file in part])
        batch = padded({"image": pixels}, size)
        found = np.asarray(classify(variables, batch["image"]), np.float32)
        yield from zip(part, pixels, found[: len(part)], strict=True)


def _view(trained: "Trained", file: Path) -> UInt8[np.ndarray, "h w c"]:
    from vit_jax_tricks.errors import UserError

    try:
        return trained.spec.view.test(file.read_bytes())
    except UserError as error:
        raise UserError(f"{file}: {error}; give a sound picture.") from error


def _files(words: Sequence[str]) -> list[Path]:
    from vit_jax_tricks import paths
    from vit_jax_tricks.errors import UserError

    if not words:
        raise UserError("no picture is given; add its path (see --help).")
    files = [paths.local(word) for word in words]
    for file in files:
        if not file.is_file():
            what = "is a folder" if file.is_dir() else "does not exist"
            raise UserError(f"{file} {what}; give the paths of pictures.")
    return files


def _names(trained: "Trained", labels: str | None) -> Sequence[str]:
    """The class names: from --labels, or else the run's, or else numbers."""
    import json
    import re

    from vit_jax_tricks.errors import UserError

    classes = trained.spec.fields["num_classes"]
    if labels is None:
        known = trained.spec.class_names
        return known or [f"class {k}" for k in range(classes)]
    try:
        text = Path(labels).read_bytes().decode("utf-8-sig")
        lines = re.split(r"\r\n|\n|\r", text.rstrip("\r\n"))
        names = json.loads(text) if labels.endswith(".json") else lines
    except UnicodeDecodeError as error:
        raise UserError(
            f"--labels={labels} is not in UTF-8 (byte {error.start}); save it as UTF-8."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--labels={labels} cannot be read ({why}).") from error
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise UserError(f"--labels={labels}: expected a list of names.")
    if len(names) != classes:
        raise UserError(
            f"--labels={labels} holds {len(names)} names; the model has {classes} "
            "classes."
        )
    return names


if __name__ == "__main__":
    sys.exit(main())
