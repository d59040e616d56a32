"""Writes a trained model to a file, loads the file and measures it."""

import dataclasses
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from vit_jax_tricks import compress, paths
from vit_jax_tricks.compress.quant.model import QuantizedModel
from vit_jax_tricks.compress.quant.range_store import without_ranges
from vit_jax_tricks.data import Data
from vit_jax_tricks.errors import Argument, UserError
from vit_jax_tricks.export import cpu, proof
from vit_jax_tricks.export.files import check_writable, staged
from vit_jax_tricks.export.installed import not_installed
from vit_jax_tricks.runs import quant_config
from vit_jax_tricks.runs.data import open_data
from vit_jax_tricks.runs.model_inputs import model_inputs
from vit_jax_tricks.runs.progress import Progress, silent
from vit_jax_tricks.runs.trained import Trained, load


FORMATS = ("onnx", "stablehlo")
BATCH = 32  # images per call of the model


class Images(NamedTuple):
    """Normalised images to compare on, with their labels if they have any."""

    images: np.ndarray
    labels: np.ndarray | None
    source: str
    facts: dict[str, Any]
    text: str


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported file and its comparison with the model it was made from.

    Attributes:
      file: the file.
      weights: the origin of the weights.
      compared_on: the images of the comparison.
      megabytes: size of the file.
      differences: by reference (jax, fake_quant, float): max_difference of the logits,
        top1_agreement and, with labels, accuracy and accuracy_reference.
      latency_ms: by function and batch size.
      facts: further results of INT8.
    """

    file: Path
    weights: str
    compared_on: Images
    megabytes: float
    differences: dict[str, dict[str, float]]
    latency_ms: dict[str, dict[int, float]]
    facts: dict[str, Any]

    @property
    def int8(self) -> bool:
        return "int8_products" in self.facts

    def to_json(self) -> dict[str, Any]:
        return {
            "file": str(self.file),
            "weights": self.weights,
            "data": self.compared_on.source,
            **self.compared_on.facts,
            "compared_on": self.compared_on.text,
            "megabytes": self.megabytes,
            **self.differences,
            "latency_ms": self.latency_ms,
            **self.facts,
        }


def export(
    trained: Trained | str | os.PathLike,
    out: str | os.PathLike,
    data: Data | str | None = None,
    *,
    int8: bool = False,
    calibration: int | None = None,
    check: int = 256,
    progress: Progress = silent,
) -> Exported:
    """Writes a trained model to a file, loads the file and compares it with the model.

    Args:
      trained: a model from `runs.load`, or the workdir of a run.
      out: the file: NAME.onnx, or NAME.stablehlo, which gets a NAME.stablehlo.json.
      data: images to compare and calibrate on, as `runs.open_data` takes them; by
        default the run's own. Other weights are then compared on random images.
      int8: ONNX with 8-bit weights and inputs of linear layers, by the ranges of a
        quantised run, or else calibrated by `compress.standard_rules`.
      calibration: number of training images for INT8; by default 512.
      check: number of test images to compare on.
      progress: called while calibrating and comparing; may raise to stop.

    Raises:
      UserError: arguments that exclude one another, a model that cannot be translated,
        logits that are not finite, a place that cannot be written, and as `runs.load`
        and `runs.open_data`.

    Example:
      made = export("runs/digits", "digits.onnx")
      made.differences["jax"]["max_difference"]
    """
    kind, file = target(out, int8=int8, calibration=calibration)
    trained = trained if isinstance(trained, Trained) else load(trained)
    if trained.spec.quant is not None:
        _check_quantized(trained.source, int8, calibration)
    opened = None
    if data is not None or trained.workdir is not None:
        opened = open_data(trained, data)
    if int8 and opened is None:
        raise UserError(
            Argument("int8"),
            " calibrates on images: give ",
            Argument("data"),
            "=SPEC, such as digit_scenes/64 or folder:PATH.",
        )
    shown = _shown(trained, opened, check, progress)
    count = calibration or quant_config.IMAGES
    made = _make(trained, opened, kind, int8, count, progress)
    files = [file] if kind == "onnx" else [file, file.with_name(f"{file.name}.json")]
    with staged(*files) as partials:
        for partial, content in zip(partials, made.contents, strict=True):
            partial.write_bytes(content)
        size = partials[0].stat().st_size
        content = partials[0].read_bytes()
        functions = {kind: made.load(content), **made.beside}
        differences, latency = _measure(functions, made.reference, shown, progress)
    return Exported(
        file, trained.source, shown, size / 1e6, differences, latency, made.facts
    )


class Made(NamedTuple):
    """A file's contents and loader, its references, and functions to time it beside."""

    contents: list[bytes]
    load: Callable[[bytes], proof.Function]
    reference: dict[str, proof.Function]
    beside: dict[str, proof.Function]
    facts: dict[str, Any]


def target(
    out: str | os.PathLike, *, int8: bool = False, calibration: int | None = None
) -> tuple[str, Path]:
    """The format and the absolute path of a file to write.

    Raises: UserError for another ending, arguments that exclude one another, a place
      that cannot be written, and a package that is not installed.
    """
    text, file = os.fspath(out), paths.absolute(out)
    kind = file.suffix.removeprefix(".")
    if kind not in FORMATS:
        endings = " or ".join(f".{name}" for name in FORMATS)
        raise UserError(
            Argument("out"), f"={text}: give a file name that ends in {endings}."
        )
    if int8 and kind != "onnx":
        raise UserError(Argument("int8"), " makes ONNX files: give NAME.onnx.")
    if calibration is not None and not int8:
        raise UserError(
            Argument("calibration"),
            " is for ",
            Argument("int8"),
            "; add it or leave both out.",
        )
    if file.is_dir():
        raise UserError(
            Argument("out"), f"={text} is a folder; give the name of a file in it."
        )
    folder = file.parent
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(
            Argument("out"), f"={text}: {folder} {what}; give a file in a folder."
        )
    check_writable(file)
    needed = ("onnx", "onnxruntime") if kind == "onnx" else ("flatbuffers",)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise not_installed(missing[0])
    return kind, file


def _check_quantized(source: str, int8: bool, calibration: int | None) -> None:
    """Requires INT8 for a quantised run, which has its own ranges."""
    if not int8:
        raise UserError(
            f"{source} is quantised: add ",
            Argument("int8"),
            ", or export the float run that it was made from.",
        )
    if calibration is not None:
        raise UserError(
            f"{source} has its own ranges: leave ", Argument("calibration"), " out."
        )


def _shown(
    trained: Trained, opened: Data | None, count: int, progress: Progress
) -> Images:
    """Test images as the model takes them, or random images."""
    spec = trained.spec
    if opened is None:
        shape = (count, *spec.view.size, spec.view.channels)
        images = np.random.default_rng(0).standard_normal(shape, np.float32)
        text = f"{count} random images"
        return Images(images, None, "random images", {"images": count}, text)
    sample = opened.sample(count)
    batches = list(
        model_inputs(
            opened,
            sample,
            batch_size=BATCH,
            mean=spec.mean,
            std=spec.std,
            progress=progress,
        )
    )
    return Images(
        np.concatenate([batch["image"] for batch in batches]),
        np.concatenate([batch["label"] for batch in batches]),
        opened.name,
        sample.facts(),
        f"{opened.name}: {sample}",
    )


def _quantized(
    trained: Trained,
    model: nn.Module,
    variables: Any,
    opened: Data,
    count: int,
    progress: Progress,
) -> tuple[QuantizedModel, dict[str, Any]]:
    """The model with its own ranges, or calibrated now by the standard rules."""
    if isinstance(trained.model, QuantizedModel):
        return QuantizedModel(model, trained.model.rules), variables
    quantized = QuantizedModel(model, compress.standard_rules())
    variables = quant_config.calibrated(
        quantized,
        variables,
        opened,
        opened.sample(count, "train"),
        mean=trained.spec.mean,
        std=trained.spec.std,
        progress=progress,
    )
    return quantized, variables


def _make(
    trained: Trained,
    opened: Data | None,
    kind: str,
    int8: bool,
    count: int,
    progress: Progress,
) -> Made:
    from vit_jax_tricks.export.float32 import in_float32

    owner = trained.model
    plain = owner.model if isinstance(owner, QuantizedModel) else owner
    model, stored = in_float32(plain, trained.variables[""])
    variables = without_ranges(stored)
    shape = (*trained.spec.view.size, trained.spec.view.channels)

    @jax.jit
    def logits(images: Any) -> Any:
        return model.apply(variables, images, train=False)[0]

    jax_function = {"jax": lambda images: np.asarray(logits(images))}
    described = describe(trained)
    if kind == "stablehlo":
        from vit_jax_tricks.export import stablehlo

        def load(content: bytes) -> proof.Function:
            function = stablehlo.load(content)
            return lambda images: np.asarray(function(images))

        side = json.dumps(described, indent=1).encode()
        contents = [stablehlo.to_stablehlo(model, variables, shape), side]
        return Made(contents, load, jax_function, jax_function, {})
    from vit_jax_tricks.export import onnx_model

    metadata = {
        k: v if isinstance(v, str) else json.dumps(v) for k, v in described.items()
    }
    whole = onnx_model.serialized(onnx_model.to_onnx(model, variables, shape, metadata))
    if not int8:
        return Made([whole], proof.onnx_function, jax_function, jax_function, {})
    assert opened is not None
    from vit_jax_tricks.export import tensorrt
    from vit_jax_tricks.export.int8 import to_onnx_int8

    quantized, stored = _quantized(trained, model, stored, opened, count, progress)
    rules, ranges = quantized.rules, quantized.ranges(stored)

    @jax.jit
    def fake_quantized(images: Any) -> Any:
        return compress.quantized_apply(model, variables, images, ranges, rules)[0]

    metadata["quantization"] = "int8, symmetric, one step a channel"
    graph = to_onnx_int8(model, variables, ranges, rules, shape, metadata)
    beside = {"float": proof.onnx_function(whole)}
    reference = {"fake_quant": lambda images: np.asarray(fake_quantized(images))}
    facts = {
        "megabytes_float": len(whole) / 1e6,
        "int8_products": cpu.products(),
        "tensorrt_problems": tensorrt.tensorrt_problems(graph),
    }
    content = onnx_model.serialized(graph)
    return Made([content], proof.onnx_function, {**reference, **beside}, beside, facts)


def describe(trained: Trained) -> dict[str, Any]:
    """Metadata for users of the file: input, preprocessing and class names."""
    spec = trained.spec
    view = spec.to_json()["view"]
    return {
        "model": spec.name,
        "input": "images: float32 [batch, h, w, c], (pixels / 255 - mean) / std",
        "output": "logits: float32 [batch, classes]",
        "preprocessing": {"mean": spec.mean, "std": spec.std, **view},
        "labels": list(spec.class_names or ()),
    }


def _measure(
    functions: dict[str, proof.Function],
    references: dict[str, proof.Function],
    shown: Images,
    progress: Progress,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Differences from each reference, and the latency of each function."""
    file = next(iter(functions.values()))
    logits = proof.outputs(file, shown.images)
    broken = int((~np.isfinite(logits)).any(-1).sum())
    if broken:
        raise UserError(
            f"the exported file's logits are not finite on {broken} of {len(logits)} "
            "images, so it was not kept; check the weights."
        )
    result: dict[str, Any] = {}
    for done, (name, reference) in enumerate(references.items()):
        progress(done, len(references))
        expected = proof.outputs(reference, shown.images)
        result[name] = proof.compare(logits, expected, shown.labels)

    def check() -> None:
        progress(len(references), len(references))

    return result, proof.latency(functions, shown.images, check=check)
