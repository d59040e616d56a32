"""What a run of `relabel` says and stores."""

import numpy as np

from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.data.label_pack.code import decode


def succeeded(result):
    status, out, err = result
    assert (status, err) == (0, "")
    return out


def stored(path, index):
    return {
        k: np.asarray(v) for k, v in decode(LabelPack.open(path).rows(index)).items()
    }


def sparse(classes, scores, k):
    """Scores of all classes in order, where all are kept."""
    out = np.empty((*scores.shape[:-1], k), np.float32)
    np.put_along_axis(out, classes, scores, -1)
    return out
