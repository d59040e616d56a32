"""Reads weights from a file, a workdir of ours, or the Hugging Face hub."""

from collections.abc import Callable
from pathlib import Path

from vit_jax_tricks import paths
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.pretrained import augreg, dialects, hub, transformers_names
from vit_jax_tricks.pretrained.files import read_weights
from vit_jax_tricks.pretrained.rules import find_path
from vit_jax_tricks.pretrained.weights import Weights


# Converters for files whose names belong to no dialect: the first one that recognises a
# file converts it to a dialect's names.
CONVERTERS: dict[str, list[Callable[[Weights], Weights | None]]] = {
    "VisionTransformer": [
        augreg.to_timm,
        transformers_names.to_timm,
    ],
}


def read_source(source: str | Path, family: str, *, ema: bool | None = None) -> Weights:
    """Reads the arrays of a source in the key names of a family.

    Args:
      source: a weight file, a workdir, or `hub:owner/name[@revision]`.
      family: the class name of the model.
      ema: the averaged weights (True), the plain ones (False), or the averaged ones if
        the source has any (None).

    Raises:
      UserError: as `load_pretrained`.
    """
    if family not in dialects.DIALECTS:
        raise UserError(f"weights cannot be loaded for {family} yet.")
    place = paths.weights(source)
    if place.startswith(paths.HUB):
        weights = read_weights(hub.download(place), ema=ema).replace(source=place)
    elif Path(place).is_dir():
        from vit_jax_tricks.pretrained.workdir import read_workdir

        return read_workdir(Path(place), ema=ema)
    else:
        weights = read_weights(place, ema=ema)
    for convert in CONVERTERS.get(family, []):
        converted = convert(weights)
        if converted is not None:
            return converted
    return weights


def classes_of(weights: Weights, family: str) -> int | None:
    """Number of classes of the weights' head, or None without a head."""
    heads = [
        rule
        for dialect in dialects.DIALECTS[family].values()
        for rule in dialect
        if rule.head
    ]
    for name, array in weights.arrays.items():
        if weights.native:
            if any(rule.path == name for rule in heads):
                return array.shape[-1]
        elif (match := find_path(name, heads)) is not None:
            return match[1].transform.load(array, array.shape).shape[-1]
    return None
