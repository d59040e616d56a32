"""`hub:owner/name[@revision]`: `model.safetensors` of a Hugging Face repository."""

import importlib
import re
from pathlib import Path

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.paths import HUB


FILE = "model.safetensors"


def download(source: str) -> Path:
    """Returns the local copy of the file, downloaded and cached by huggingface_hub.

    Raises:
      UserError: huggingface_hub is missing, the name is malformed, or the download
        fails.
    """
    name = source.removeprefix(HUB)
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name)
    if match is None:
        raise UserError(f"{source}: expected hub:owner/name or hub:owner/name@revision")
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError(
            f"{source} needs huggingface_hub: pip install 'vit_jax_tricks[hub]'; or "
            f"download {FILE} and give its path."
        ) from error
    try:
        return Path(hub.hf_hub_download(match[1], FILE, revision=match[2]))
    except Exception as error:  # of the library, the network or the disk
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{source}: {FILE} cannot be downloaded ({why}); check the name and the "
            "network, or download it elsewhere and give its path."
        ) from error
