"""Label packs: a teacher's labels for every training example and its patches.

A pack is a folder with `pack.json` and files of records, written by `python -m
vit_jax_tricks.relabel`. An example takes 3 bytes for each score, plus about 100.
"""

from vit_jax_tricks.data.label_pack.pack import LabelPack


__all__ = ["LabelPack"]
