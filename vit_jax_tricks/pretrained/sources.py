"""Reads weights from a file, a workdir of ours, or the Hugging Face hub."""

from pathlib import Path

from vit_jax_tricks import paths
from vit_jax_tricks.pretrained import hub
from vit_jax_tricks.pretrained.files import read_weights
from vit_jax_tricks.pretrained.rules import KeyNames, find_path
from vit_jax_tricks.pretrained.weights import Weights


def read_source(
    source: str | Path, names: KeyNames, *, ema: bool | None = None
) -> Weights:
    """Reads the arrays of a source in the key names of a family.

    Args:
      source: a weight file, a workdir, or `hub:owner/name[@revision]`.
      names: the family's, from `key_names`.
      ema: the averaged weights (True), the plain ones (False), or the averaged ones if
        the source has any (None).

    Raises:
      UserError: as `load_pretrained`.
    """
    place = paths.weights(source)
    if place.startswith(paths.HUB):
        weights = read_weights(hub.download(place), ema=ema).replace(source=place)
    elif Path(place).is_dir():
        from vit_jax_tricks.pretrained.workdir import read_workdir

        return read_workdir(Path(place), ema=ema)
    else:
        weights = read_weights(place, ema=ema)
    for convert in names.converters:
        converted = convert(weights)
        if converted is not None:
            return converted
    return weights


def classes_of(weights: Weights, names: KeyNames) -> int | None:
    """Number of classes of the weights' head, or None without a head."""
    heads = [rule for rule in names.rules if rule.head]
    for name, array in weights.arrays.items():
        if weights.native:
            if any(rule.path == name for rule in heads):
                return array.shape[-1]
        elif (match := find_path(name, heads)) is not None:
            return match[1].transform.load(array, array.shape).shape[-1]
    return None
