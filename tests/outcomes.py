"""How a command ends that met a damaged file, and what `predict` says of a picture."""

import re
from pathlib import Path

import PIL.Image
import weight_files


def refused(result: tuple[int, str, str], what: str, *, as_json: bool = False) -> bool:
    """Whether a command ended in one line of error, or else without any.

    With --json, what is for people comes before it.
    """
    status, out, err = result
    assert "Traceback" not in out + err, (what, err)
    if status and as_json:
        err = err.splitlines(keepends=True)[-1]
    if status:
        assert (status, err[:7], err.count("\n")) == (1, "error: ", 1), (what, err)
    return status == 1


def ranked(out: str) -> list[str]:
    """The classes and probabilities that `predict` prints."""
    return re.findall(r"^ +\d+\.\d\d%  .+$", out, re.MULTILINE)


def small_picture(folder: Path) -> Path:
    """A picture to predict."""
    path = folder / "a.png"
    PIL.Image.fromarray(weight_files.smooth_image(16, 16)).save(path)
    return path
