"""Measures the compile time of every model's forward pass in seconds.

python benchmarks/compile_time.py [PATTERN...] writes docs/compile_time.json, which
`python -m vit_jax_tricks.inspect models` puts into its table. Tracing and compiling are
timed. Nothing runs, and the weights are shapes only. The machine should be idle.
"""

import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path

import jax

from vit_jax_tricks.flops import forward_shapes
from vit_jax_tricks.models import create_model, list_models


OUTPUT = Path("docs/compile_time.json")


def compile_seconds(name: str) -> float:
    """Wall time of tracing, lowering and compiling a forward pass of two images."""
    model = create_model(name)
    shapes = forward_shapes(model, 2)
    start = time.perf_counter()
    jax.jit(model.apply).lower(*shapes).compile()
    return time.perf_counter() - start


def main() -> None:
    patterns = sys.argv[1:] or ["*"]
    names = sorted({name for p in patterns for name in list_models(p)})
    known = json.loads(OUTPUT.read_text())["seconds"] if OUTPUT.exists() else {}
    begin = time.monotonic()
    for done, name in enumerate(names, start=1):
        known[name] = round(compile_seconds(name), 2)
        left = (time.monotonic() - begin) / done * (len(names) - done)
        print(f"{name}: {known[name]:.1f} s  ETA {left:.0f} s", flush=True)
        jax.clear_caches()
    OUTPUT.parent.mkdir(exist_ok=True)
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": dict(sorted(known.items())),
    }
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
