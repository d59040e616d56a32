"""Loads and saves weights in the key names of the reference implementations."""

from vit_jax_tricks.pretrained.export import export_weights
from vit_jax_tricks.pretrained.load import load_pretrained
from vit_jax_tricks.pretrained.load_report import LoadReport


__all__ = ["LoadReport", "export_weights", "load_pretrained"]
