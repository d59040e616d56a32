"""Opens files written by TFDS safely: runs no code from them and checks every shard."""

import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from vit_jax_tricks.errors import UserError


OWN = "tensorflow_datasets.core.features."
_patching = threading.Lock()


@contextlib.contextmanager
def own_features() -> Iterator[None]:
    """Restricts `features.json` to TFDS's classes; TFDS itself would import any module.

    Raises:
      UserError: another class is named.
    """
    from tensorflow_datasets.core.features.feature import FeatureConnector

    connector: Any = FeatureConnector
    real = connector.__dict__["cls_from_name"]

    def checked(cls: Any, python_class_name: str) -> Any:
        if not python_class_name.startswith(OWN):
            raise UserError(
                f"its features.json names the class {python_class_name}, which is not "
                "part of TFDS; nothing is imported. Prepare it with TFDS's own features"
            )
        return real.__get__(None, cls)(python_class_name)

    with _patching:
        connector.cls_from_name = classmethod(checked)
        try:
            yield
        finally:
            connector.cls_from_name = real


def check_shards(name: str, split: Any) -> None:
    """Checks that the file of every shard exists and holds its records.

    Args:
      name: name of the data set, for messages.
      split: TFDS's split info, of a whole split or a part.

    Raises:
      UserError: a file is missing or truncated.
    """
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for fault in pool.map(_fault, split.file_instructions):
            if fault:
                raise UserError(
                    f"tfds:{name}: {fault}. Copy the data set again, or remove its "
                    "folder and prepare it again."
                )


def _fault(shard: Any) -> str:
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(shard.filename))
        count = reader.num_records()
        reader.close()
    except Exception as error:  # array_record raises RuntimeError and others
        why = str(error).partition(";")[0] or "cut short"
        return f"{shard.filename} cannot be read ({why})"
    if count != shard.examples_in_shard:
        wanted = shard.examples_in_shard
        return f"{shard.filename} holds {count} records instead of {wanted}"
    return ""
