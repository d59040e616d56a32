"""Computes cheap fingerprints that show whether a data set has changed."""

import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax_tricks.data.dataset import Data
from vit_jax_tricks.data.folder import FileRecords
from vit_jax_tricks.data.label_pack.manifest import labels_crc, names_crc
from vit_jax_tricks.data.source import Records


READ, ASKED = 64, 20_000  # examples whose content is read, files whose size is


def fingerprint(data: Data) -> dict[str, Any]:
    """JSON-able fingerprint of the classes and both splits; equal for equal runs.

    A split has its number of examples, the CRC-32 of a sample of their contents and, if
    they are files, CRC-32s of all names, all labels and a sample of the sizes.
    """
    names = "\n".join(data.class_names).encode("utf-8", "surrogateescape")
    splits = {"train": data.whole_train, "test": data.test}
    return {
        "classes": zlib.crc32(names),
        **{name: _split(records) for name, records in splits.items()},
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences between two fingerprints, in words."""
    if before.get("classes") != now["classes"]:
        return ["other classes"]
    found = []
    for split in ("train", "test"):
        old, new = before.get(split) or {}, now[split]
        if old.get("count") != new["count"]:
            found.append(
                f"{old.get('count')} {split} examples then, {new['count']} now"
            )
            continue
        odd = [key for key in new if old.get(key) != new[key]]
        if odd:
            found.append(f"other {', '.join(odd)} of the {split} examples")
    return found


def _split(records: Records) -> dict[str, Any]:
    count = len(records)
    content = 0
    for row in _spread(count, READ):
        data, label = records[row]
        content = zlib.crc32(data, zlib.crc32(str(label).encode(), content))
    out: dict[str, Any] = {"count": count, "content": content}
    if isinstance(records, FileRecords):
        paths = [records.root / records.paths[row] for row in _spread(count, ASKED)]
        sizes = np.array([os.stat(path).st_size for path in paths], "<u8")
        out["names"] = names_crc(records)
        out["labels"] = labels_crc(records.labels)
        out["sizes"] = zlib.crc32(sizes.tobytes())
    return out


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` rows, evenly spaced from the first to the last."""
    rows = np.linspace(0, count - 1, min(count, most))
    return np.unique(rows.astype(np.int64)).tolist()
