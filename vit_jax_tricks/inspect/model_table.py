"""Table of all models: size, cost, published accuracy, and how each is checked."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from vit_jax_tricks.flops import count_flops, forward_shapes
from vit_jax_tricks.models.registry import create_model, lookup


HEADER = """# Models

Written by `python -m vit_jax_tricks.inspect models --output=docs/models.md`.

Parameters and GMACs (multiply-accumulates of all matrix products and convolutions, for
one image, counted from the traced program) are for the number of classes given. Top-1
is ImageNet-1k accuracy in per cent as published, by the weights of the source, not
trained here. "Checked by" is the reference file under `tests/golden`: outputs of the
source at the model's own size, or of a small model of the same code with, where timm
has the name, its parameter count. Compile: seconds for the forward pass of two images
on two CPU cores, measured by `benchmarks/compile_time.py`.

| name | parameters | GMACs | input | classes | top-1 | source | checked by | compile |
|---|---:|---:|---|---:|---:|---|---|---:|
"""


def rows(names: Iterable[str], compiled: Mapping[str, float]) -> Iterator[str]:
    """A table row for each name; `compiled` has seconds by name."""
    for name in names:
        entry = lookup(name)
        model: Any = create_model(name, num_classes=entry.parameters_classes)
        model = model.clone(scan=True)  # the same program, traced faster
        variables, images = forward_shapes(model, 1)
        leaves = jax.tree.leaves(variables["params"])
        h, w, _ = model.image_shape
        cells = (
            name,
            f"{sum(math.prod(leaf.shape) for leaf in leaves):,}",
            f"{count_flops(model.apply, variables, images).macs / 1e9:.2f}",
            f"{h}×{w}",
            entry.parameters_classes,
            entry.top1 or "",
            entry.source,
            entry.golden,
            f"{compiled[name]:.1f}" if name in compiled else "not run",
        )
        yield "| " + " | ".join(map(str, cells)) + " |"


def compile_seconds(path: Path) -> dict[str, float]:
    """Compile times from `benchmarks/compile_time.py` by name; {} without its file."""
    return json.loads(path.read_text())["seconds"] if path.exists() else {}
