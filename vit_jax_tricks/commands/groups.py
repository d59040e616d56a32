"""Options that several commands share."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax_tricks.commands import options
from vit_jax_tricks.commands.options import Pairs


RESIZES = ("area", "pil_bicubic")


def _literals(pairs: Pairs, _: str) -> dict[str, Any]:
    """Values as Python literals; the model checks them."""
    from vit_jax_tricks.config import parse_value

    return {key: parse_value(text) for key, text in pairs}


def typed(pairs: Pairs, flag: str) -> dict[str, Any]:
    """Values typed by the defaults of the config's section of that name."""
    from vit_jax_tricks import config

    return config.typed(flag.removeprefix("--"), pairs, flag)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The model."""

    workdir: Path | None = options.path(
        "a run: its model, newest checkpoint, classes, preprocessing",
        "DIR",
        brings=("its own model and weights", ("model", "weights", "num_classes")),
    )
    name: str | None = options.text(
        "or else a name of list_models(), with its weights", "NAME", flag="model"
    )
    weights: str | None = options.path(
        "a .safetensors, .npz or .pth file, a workdir, hub:owner/name",
        "SOURCE",
        place="weights",
    )
    num_classes: int | None = options.whole(
        "number of classes of the head; by default that of the weights", None
    )
    fields: Mapping[str, Any] = options.section(
        "override one field of the model, such as img_size=384", "model", _literals
    )
    ema: bool | None = options.truth(
        "averaged or plain weights; by default averaged if available"
    )
    resize: str | None = options.choice(
        "area (fast), or pil_bicubic, bit-identical to the references", RESIZES
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The data."""

    name: str | None = options.path(
        "digits, digit_scenes/64, folder:PATH or tfds:NAME; a run has its own",
        "SPEC",
        place="data",
        flag="data",
    )
    keys: Mapping[str, Any] = options.section(
        "set one key of the config's data section", "data", typed
    )
