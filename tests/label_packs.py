"""Small label packs: random records of a data set, and what describes them."""

import numpy as np

from vit_jax_tricks.data.label_pack.code import encode
from vit_jax_tricks.data.label_pack.manifest import PackSpec, names_crc


TEACHER = {"name": "x", "weights": "y", "checksum": "z", "form": "dense head"}


def fields(labels, grid=(3, 4), top=5, classes=10, seed=0):
    """Arguments of `encode`, drawn for each example by itself."""
    rng = np.random.default_rng(seed)
    b = len(labels)
    return {
        "labels": np.asarray(labels, np.int32),
        "class_scores": rng.normal(0, 5, (b, top)).astype(np.float32),
        "class_classes": rng.integers(0, classes, (b, top)),
        "token_scores": rng.normal(0, 5, (b, *grid, top)).astype(np.float32),
        "token_classes": rng.integers(0, classes, (b, *grid, top)),
    }


def all_labels(source):
    records = source.whole_train
    return np.array([records[i][1] for i in range(len(records))], np.int32)


def spec_of(source, **changes):
    return PackSpec(
        **{
            "teacher": TEACHER,
            "preprocessing": {"size": (8, 8), "crop": "whole"},
            "data": {"name": source.name},
            "class_names": tuple(source.class_names),
            "files": names_crc(source.whole_train),
            "count": len(source.whole_train),
            "grid": (3, 4),
            "top": 5,
            "rest": "mean",
            "shard_size": 400,
        }
        | changes
    )


def records_of(source, piece=64):
    """Random records of a data set's examples, the same in any order."""
    labels = all_labels(source)

    def records(part):
        for start in range(part.start, part.stop, piece):
            rows = range(start, min(start + piece, part.stop))
            yield np.concatenate(
                [encode(**fields(labels[i : i + 1], seed=i)) for i in rows]
            )

    return records
