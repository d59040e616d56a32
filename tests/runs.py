"""Tiny runs of the command line, in process, and what they leave on disk."""

import contextlib
import hashlib
import io
import json
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import numpy as np
import PIL.Image

from vit_jax_tricks.main import main


# A model that compiles in seconds; 8 devices share each batch.
TINY = (
    "--config.model.depth=1",
    "--config.model.embed_dim=16",
    "--config.model.num_heads=2",
    "--config.batch_size=32",
    "--config.steps=12",
    "--config.schedule.warmup_epochs=0.1",
    "--config.eval.epochs=0.1113",  # every 5 steps
    "--config.checkpoint.steps=4",
    "--config.log.steps=3",
    "--config.log.tensorboard=False",
    "--config.augment.degrees=0.0",
    "--config.augment.translate=0.0",
    "--config.augment.scale=(1.0, 1.0)",
)


def command(*args: str, workdir: Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a tiny run."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*TINY, f"--workdir={workdir}", *args])
    return status, out.getvalue(), err.getvalue()


def call(capsys, main, *args) -> tuple[int, str, str]:
    """Exit status, output and errors of a command, in process."""
    status = main([*map(str, args)])
    return status, *capsys.readouterr()


def subprocess_command(
    *args: str, module: str = "main", file_blocks: int | None = None, **options
) -> subprocess.CompletedProcess:
    """A process of its own, whose files are at most `file_blocks` of 512 bytes."""
    line = [sys.executable, "-m", f"vit_jax_tricks.{module}", *args]
    if file_blocks is not None:
        line = ["sh", "-c", f"ulimit -f {file_blocks}; exec {shlex.join(line)}"]
    return subprocess.run(
        line,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


def train(*args: str, workdir: Path) -> str:
    """A tiny run that must succeed; what it prints."""
    status, out, err = command(*args, workdir=workdir)
    assert (status, err) == (0, ""), err
    return out


def snapshot(folder: Path) -> dict[str, str]:
    """A hash of every file below `folder`, and every folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def metrics(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl without `time/*`."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")}
        for line in lines
    ]


def same(a, b) -> bool:
    """Whether two trees have the same arrays, to the bit; keys count too."""

    def raw(x):
        keys = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if keys else x)

    def equal(x, y) -> bool:
        x, y = raw(x), raw(y)
        return (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())

    return jax.tree.all(jax.tree.map(equal, a, b))


def leaves(workdir: Path, step: int) -> dict[str, list]:
    """Type and CRC-32 of every leaf of the state at `step`, as its checkpoint says."""
    meta = workdir / "checkpoints" / str(step) / "meta" / "metadata"
    return json.loads(meta.read_text())["leaves"]


def crc(leaf) -> int:
    """The CRC-32 that a checkpoint keeps of a leaf."""
    return zlib.crc32(np.ascontiguousarray(leaf).tobytes())


def copied(workdir: Path, folder: Path) -> Path:
    """A copy of a run, to be changed."""
    return Path(shutil.copytree(workdir, folder / "copy"))


def pictures(root: Path, classes: tuple[str, ...] = ("a", "b", "c"), count=16) -> Path:
    """A folder of small JPEGs, one subfolder a class."""
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(root / name / f"{i:02}.jpg")
    return root


def refused(result: tuple[int, str, str], part: str) -> None:
    """Asserts that a command ended with one line that has `part` in it."""
    status, _, err = result
    assert status == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert part in err
