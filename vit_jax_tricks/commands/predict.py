"""Body of the command `predict`: the classes of pictures, and a sheet of them."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from vit_jax_tricks import runs
from vit_jax_tricks.commands import model
from vit_jax_tricks.commands.command import Arguments
from vit_jax_tricks.console import say
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.inspect.prediction_sheet import MOST, write_sheet
from vit_jax_tricks.runs.prediction import picture_file
from vit_jax_tricks.runs.trained import Trained
from vit_jax_tricks.stop import Stop


def run(given: Arguments, stop: Stop) -> None:
    """Prints the most probable classes of the pictures that a command line names.

    Raises:
      UserError: no picture, class names that do not fit, and as `runs.predict`.
    """
    files = _files(given.words)
    top, picture = given.whole("top", 5) or 5, given.get("picture")
    if picture is not None and not picture.endswith(".png"):
        raise UserError(f"--picture={picture}: expected a name that ends in .png.")
    if picture is not None and len(files) > MOST:
        raise UserError(f"--picture shows up to {MOST} pictures; got {len(files)}.")
    trained = model.load(given, resize=None)
    names = None
    if (labels := given.get("labels")) is not None:
        names = _names(labels, trained)
    rows = []
    found = runs.predict(trained, files, top=top, names=names)
    for file, one in zip(files, found, strict=True):
        stop.check()
        say(str(file))
        for name, probability in one.top:
            say(f"  {probability:7.2%}  {name}")
        rows.append((file.name, one.pixels, one.top))
    if picture is not None:
        say(f"picture: {write_sheet(Path(picture), rows)}")


def _files(words: Sequence[str]) -> list[Path]:
    if not words:
        raise UserError("no picture is given; add its path (see --help).")
    return [picture_file(word) for word in words]  # before the model is loaded


def _names(labels: str, trained: Trained) -> list[str]:
    """The class names in a file."""
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
    if len(names) != trained.num_classes:
        raise UserError(
            f"--labels={labels} holds {len(names)} names; the model has "
            f"{trained.num_classes} classes."
        )
    return names
