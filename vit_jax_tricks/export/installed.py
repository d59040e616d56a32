"""Packages of the `export` extra, and the error for one that is missing."""

from vit_jax_tricks.errors import UserError


PACKAGES = ("onnx", "onnxruntime", "flatbuffers")


def not_installed(name: str) -> UserError:
    """The error that names a missing package and the command that installs it."""
    return UserError(f"{name} is not installed: pip install 'vit_jax_tricks[export]'.")
