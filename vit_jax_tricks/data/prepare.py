"""Prepares a TFDS builder exactly once, even with concurrent or killed processes."""

import contextlib
import fcntl
import io
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from vit_jax_tricks import paths
from vit_jax_tricks.errors import UserError


def data_root(data_dir: str | os.PathLike | None = None) -> pathlib.Path:
    """`data_dir`, or else $TFDS_DATA_DIR, or else ~/tensorflow_datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return paths.absolute(chosen, "config.data.data_dir or TFDS_DATA_DIR=")


def prepare(make_builder: Callable[[], Any]) -> Any:
    """Returns the builder of `make_builder` with its records on disk.

    TFDS writes to a temporary folder and renames it, so a killed run leaves no partial
    data set. A file lock makes a second process wait instead of doing the work again,
    and the owner of the lock removes what killed runs left behind.

    Raises:
      UserError: the data folder cannot be written.
    """
    import tensorflow_datasets as tfds

    with quiet():
        builder = make_builder()
        if builder.is_prepared():
            return builder
    target = pathlib.Path(builder.data_dir)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.parent / f".{target.name}.lock"), quiet():
            builder = make_builder()  # reads the info that another process wrote
            if not builder.is_prepared():
                for left in target.parent.glob(f"*incomplete*{target.name}*"):
                    shutil.rmtree(left, ignore_errors=True)
                builder.download_and_prepare(download_config=config)
    except (OSError, RuntimeError) as error:  # RuntimeError: array_record's writer
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"config.data.data_dir: cannot write {builder.name} to {target.parent} "
            f"({why}). Give a writable folder with free space: "
            "--config.data.data_dir=DIR or TFDS_DATA_DIR=DIR."
        ) from error
    return builder


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Holds an exclusive lock on `path`; the system frees it when the process dies."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TFDS from printing, logging and drawing progress bars."""
    from absl import logging
    from tensorflow_datasets.core.utils import tqdm_utils

    level, bars = logging.get_verbosity(), getattr(tqdm_utils, "_active", True)
    logging.set_verbosity(logging.ERROR)
    tqdm_utils.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        tqdm_utils.display_progress_bar(bars)
