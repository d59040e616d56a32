"""Converts official label maps to the records of a label pack.

One PyTorch file for each training image, CLASS/NAME.pt, with NAME up to its first dot:
a float16 tensor [2, t, rows, columns] with the t largest logits of each cell and their
classes. Sources: Jiang et al., 2021, arXiv:2104.10858 (TokenLabeling's
generate_label.py); ReLabel, Yun et al., 2021, arXiv:2101.05022, in the same format.
"""

import concurrent.futures
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath

import numpy as np

from vit_jax_tricks.data.dataset import Data
from vit_jax_tricks.data.folder import FileRecords
from vit_jax_tricks.data.label_pack.code import encode
from vit_jax_tricks.data.label_pack.manifest import LARGEST, PackSpec, names_crc
from vit_jax_tricks.errors import Argument, UserError
from vit_jax_tricks.pretrained import pth
from vit_jax_tricks.typing import Float, Int, Shaped


PIECE = 256  # examples read at once


@dataclasses.dataclass(frozen=True)
class LabelMaps:
    """The maps of a data set, one file for each training example, in order."""

    files: Sequence[Path]
    labels: Int[np.ndarray, "n"]
    source: Data
    spec: PackSpec

    def records(
        self, examples: range, check: Callable[[int], None]
    ) -> Iterator[Shaped[np.ndarray, "b"]]:
        """Records of a range of examples, in order.

        `check` is called with the number of examples done before each piece; it may
        raise.

        Raises:
          UserError: a file that is not such a map.
        """
        classes = len(self.spec.class_names)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for start in range(examples.start, examples.stop, PIECE):
                check(start)
                stop = min(start + PIECE, examples.stop)
                maps = pool.map(self._map, self.files[start:stop])
                scores, ids = (np.stack(part) for part in zip(*maps, strict=True))
                image = means(scores, ids, classes)
                best = np.argsort(-image, 1, kind="stable")[:, : self.spec.top]
                yield encode(
                    labels=self.labels[start:stop],
                    class_scores=np.take_along_axis(image, best, 1),
                    class_classes=best,
                    token_scores=scores,
                    token_classes=ids,
                )
        check(examples.stop)

    def _map(
        self, file: Path
    ) -> tuple[Float[np.ndarray, "p q t"], Int[np.ndarray, "p q t"]]:
        top = self.spec.top
        scores, ids = read_map(file)
        if scores.shape[:2] != self.spec.grid or scores.shape[2] < top:
            raise UserError(
                f"{file} holds {_by(scores.shape)} (rows, columns, classes) but the "
                f"first map {_by((*self.spec.grid, top))}; give maps of one kind."
            )
        most = int(ids.max())
        if most >= len(self.spec.class_names):
            raise UserError(
                f"{file} names class {most}, but {self.source.name} has "
                f"{self.source.num_classes} classes; give the data it was made for."
            )
        return scores[..., :top], ids[..., :top]


def open_maps(
    root: Path, source: Data, named: dict, *, top: int, shard_size: int
) -> LabelMaps:
    """Finds the map of every training example.

    Args:
      root: the folder that holds CLASS/NAME.pt.
      source, named: the data, and its name and keys in the pack.
      top: number of scores to keep, if the maps have that many.
      shard_size: examples in each file of the pack.

    Raises:
      UserError: a missing map, or two pictures with the same map.
    """
    records = source.whole_train
    if not isinstance(records, FileRecords):
        raise UserError(
            f"{source.name}: label maps belong to files by name; give ",
            Argument("data"),
            "=folder:PATH.",
        )
    files = _files(root, records, source.class_names)
    scores, _ = read_map(files[0])
    top = min(top, scores.shape[2])
    spec = PackSpec(
        teacher={
            "name": "label maps",
            "weights": str(root),
            "checksum": None,
            "form": "label maps",
        },
        # TokenLabeling's generate_label.py crops the centre of the shorter side.
        preprocessing={"crop": "as the maps were made"},
        data=named,
        class_names=tuple(source.class_names),
        files=names_crc(records),
        count=len(records),
        grid=(scores.shape[0], scores.shape[1]),
        top=top,
        rest="none" if top == source.num_classes else "zero",
        shard_size=shard_size,
    )
    return LabelMaps(files, records.labels, source, spec)


def read_map(
    file: Path,
) -> tuple[Float[np.ndarray, "p q t"], Int[np.ndarray, "p q t"]]:
    """Scores (float32) and classes of the cells of one file, largest first.

    Raises:
      UserError: the file is not such a map.
    """
    torch, found = pth.load(file)
    shape = tuple(getattr(found, "shape", ()))
    if not isinstance(found, torch.Tensor) or len(shape) != 4 or shape[0] != 2:
        what = f"a tensor of shape {shape}" if shape else type(found).__name__
        raise UserError(
            f"{file} holds {what}; a label map is a tensor [2, classes, rows, columns]."
        )
    if math.prod(shape) > 2 * LARGEST:
        raise UserError(
            f"{file} holds a tensor of shape {shape}; a label map has at most "
            f"{LARGEST} scores."
        )
    scores, ids = np.moveaxis(found.float().numpy(), 1, -1)
    if not np.isfinite(scores).all() or (ids != np.round(ids)).any() or ids.min() < 0:
        raise UserError(f"{file} holds scores or classes that are not valid numbers.")
    return scores, ids.astype(np.int32)


def means(
    scores: Float[np.ndarray, "b p q t"],
    ids: Int[np.ndarray, "b p q t"],
    num_classes: int,
) -> Float[np.ndarray, "b k"]:
    """Mean score of each class over the cells; 0 for cells that do not keep it."""
    b, rows, columns, _ = scores.shape
    out = np.zeros((b, num_classes), np.float32)
    np.add.at(out, (np.arange(b)[:, None, None, None], ids), scores)
    return out / np.float32(rows * columns)


def _files(root: Path, records: FileRecords, names: Sequence[str]) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give that of the label maps.")
    there = {name: _listed(root / name) for name in names}
    files, owners = [], {}
    for path, label in zip(records.paths, records.labels, strict=True):
        name = names[int(label)]
        file = f"{PurePath(path).name.split('.')[0]}.pt"
        if file not in there[name]:
            raise UserError(
                f"{root / name / file} is missing, the label map of {path}; every "
                "training picture needs one."
            )
        files.append(root / name / file)
        if (other := owners.setdefault(files[-1], path)) != path:
            raise UserError(f"{other} and {path} share a label map, {files[-1]}.")
    return files


def _listed(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
