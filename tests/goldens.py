"""Reference data: weights synthesised from names and shapes, and the stored outputs."""

import functools
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np


GOLDEN = Path(__file__).parent / "golden"


def base_normal(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 numbers that depend on the name alone."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    return rng.standard_normal(tuple(shape), dtype=np.float32)


def load_golden(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The manifest and arrays of a file, such as "models_small/small_vit"."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop("manifest"))), arrays


def reference_state(manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """The synthetic weights of a golden, by reference key; `keep` entries left out."""
    state = {}
    for key, shape, _, kind, gain, offset, _ in manifest["state"]:
        if kind != "keep":
            w = base_normal(key, shape)
            w = np.abs(w) if kind == "absnormal" else w
            state[key] = w * np.float32(gain) + np.float32(offset)
    return state


@functools.lru_cache(maxsize=1)  # the next test is often of the same model
def golden_state(name: str) -> dict[str, np.ndarray]:
    """The synthetic weights of a golden by name; not to be changed."""
    return reference_state(load_golden(name)[0])


def golden_images(manifest: dict[str, Any]) -> np.ndarray:
    """The input batch of a golden, NHWC float32."""
    name = f"input:{manifest['input_name']}"
    return base_normal(name, manifest["input_shape"]).transpose(0, 2, 3, 1)
