"""Data: `build(name)` opens a data set that yields uint8 batches on the host."""

from vit_jax_tricks.data.dataset import Data
from vit_jax_tricks.data.pipeline import build


__all__ = ["Data", "build"]
