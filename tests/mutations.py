"""Puts one-line faults into a copy of the project and asks the near tests about each.

Run `python tests/mutations.py`, or with words to take only the mutations whose file,
text or tests contain one of them. `--slow` runs the slow tests too. A mutation that no
test notices survives; one whose old text is gone from its file is stale. The status is
1 if there are any of either.

`mutations.txt` lists them: `@ FILE | TESTS`, the latter as pytest takes them, then for
each mutation its old text in lines that begin with `- ` and the new text in lines that
begin with `+ `.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_suffix(".txt")
LIMIT = 900  # seconds of a test run
UNNOTICED = ("stale", "survived", "no end", "no tests")


class Mutation(NamedTuple):
    """A fault: `old` becomes `new` in `file`, and `tests` should notice."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.file}: {old} -> {new or 'nothing'}"


def read(text: str) -> Iterator[Mutation]:
    """The mutations of a list in the format of the module's docstring."""
    file, tests = "", ()
    old: list[str] = []
    new: list[str] = []
    for line in [*text.splitlines(), "@ |"]:
        sign, rest = line[:1], line[2:]
        if (sign in "@-" and new) or (sign == "@" and old):
            yield Mutation(file, "\n".join(old), "\n".join(new), tests)
            old, new = [], []
        if sign == "@":
            file, _, near = (part.strip() for part in rest.partition("|"))
            tests = tuple(near.split())
        elif sign == "-":
            old.append(rest)
        elif sign == "+":
            new.append(rest)


def outcome(mutation: Mutation, project: Path, marks: str) -> str:
    """ "stale", "survived", or the first test that failed."""
    path = project / mutation.file
    text = path.read_text() if path.exists() else ""
    if text.count(mutation.old) != 1:
        return "stale"
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "-m", marks]
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", *mutation.tests],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(project)},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no end"
    finally:
        path.write_text(text)
    if done.returncode in (0, 5):
        return "no tests" if done.returncode else "survived"
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return failed[0].partition(" - ")[0] if failed else f"status {done.returncode}"


def main(argv: list[str]) -> int:
    words = [word for word in argv if word != "--slow"]
    marks = "" if "--slow" in argv else "not slow"
    chosen = [
        mutation
        for mutation in read(LIST.read_text())
        if not words or any(word in repr(mutation) for word in words)
    ]
    bad = []
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        ignored = shutil.ignore_patterns(".*", "__pycache__")
        shutil.copytree(ROOT, project, ignore=ignored)
        for number, mutation in enumerate(chosen, 1):
            began = time.monotonic()
            found = outcome(mutation, project, marks)
            seconds = time.monotonic() - began
            print(f"{number}/{len(chosen)} {mutation}", flush=True)
            print(f"    {found} ({seconds:.0f} s)", flush=True)
            if found in UNNOTICED:
                bad.append(f"{found}: {mutation}")
    print(f"{len(chosen)} mutations, {len(bad)} not noticed", *bad, sep="\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
