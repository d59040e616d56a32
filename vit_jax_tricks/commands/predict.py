"""Body of the command `predict`: the classes of pictures, and a sheet of them."""

import json
import re
from pathlib import Path

from vit_jax_tricks import runs
from vit_jax_tricks.commands import groups
from vit_jax_tricks.commands.model import load
from vit_jax_tricks.console import say
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.inspect.prediction_sheet import MOST, write_sheet
from vit_jax_tricks.runs.prediction import picture_file
from vit_jax_tricks.runs.trained import Trained
from vit_jax_tricks.stop import Stop


def run(
    *,
    model: groups.Model,
    files: tuple[str, ...],
    labels: Path | None,
    top: int,
    picture: Path | None,
    stop: Stop,
) -> None:
    """Prints the most probable classes of pictures, and draws them.

    Raises:
      UserError: no picture, class names that do not fit, and as `runs.predict`.
    """
    if not files:
        raise UserError("no picture is given; add its path (see --help).")
    pictures = [picture_file(file) for file in files]  # before the model is loaded
    if picture is not None and len(pictures) > MOST:
        raise UserError(f"--picture shows up to {MOST} pictures; got {len(pictures)}.")
    trained = load(model, resize=None)
    names = None if labels is None else _names(labels, trained)
    rows = []
    found = runs.predict(trained, pictures, top=top, names=names)
    for file, one in zip(pictures, found, strict=True):
        stop.check()
        say(str(file))
        for name, probability in one.top:
            say(f"  {probability:7.2%}  {name}")
        rows.append((file.name, one.pixels, one.top))
    if picture is not None:
        say(f"picture: {write_sheet(picture, rows)}")


def _names(labels: Path, trained: Trained) -> list[str]:
    """The class names in a file."""
    try:
        text = labels.read_bytes().decode("utf-8-sig")
        lines = re.split(r"\r\n|\n|\r", text.rstrip("\r\n"))
        names = json.loads(text) if labels.name.endswith(".json") else lines
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
