"""Body of the command `export`: writes a file, loads it and measures it."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from vit_jax_tricks import compress, data
from vit_jax_tricks.commands import export_verdict as verdict
from vit_jax_tricks.commands.command import Arguments
from vit_jax_tricks.compress.quant.model import QuantizedModel
from vit_jax_tricks.compress.quant.range_store import without_ranges
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export import NOT_INSTALLED, cpu, proof
from vit_jax_tricks.export.files import check_writable, staged
from vit_jax_tricks.runs import evaluation, model_flags, quantizing
from vit_jax_tricks.runs.model_flags import Trained
from vit_jax_tricks.runs.model_inputs import model_inputs
from vit_jax_tricks.stop import Stop


FORMATS = ("onnx", "stablehlo")
BATCH = 32  # images per call of the model


class Images(NamedTuple):
    """Normalised images to compare on, with their labels if they have any."""

    images: np.ndarray
    labels: np.ndarray | None
    source: str
    facts: dict[str, Any]
    text: str


def run(given: Arguments, stop: Stop) -> dict[str, Any]:
    """Writes the file that a command line requests and returns the measurements.

    Raises:
      UserError: flags that contradict one another, a model that cannot be translated,
        and as `load_pretrained` and `data.build`.
    """
    kind, out = _target(given)
    int8 = given.get("int8") is not None
    trained = model_flags.load(given, resize="area")
    if trained.spec.quant is not None:
        _check_quantized(given, trained.source)
    opened = _data(given, trained)
    if int8 and opened is None:
        raise UserError(
            "--int8 calibrates on images: give --data=SPEC, such as digit_scenes/64 "
            "or folder:PATH."
        )
    shown = _shown(given, trained, opened)
    made = _make(given, trained, opened, kind, int8, stop)
    files = [out] if kind == "onnx" else [out, out.with_name(f"{out.name}.json")]
    with staged(*files) as partials:
        for partial, content in zip(partials, made.contents, strict=True):
            partial.write_bytes(content)
        size = partials[0].stat().st_size
        content = partials[0].read_bytes()
        functions = {kind: made.load(content), **made.beside}
        result = _measure(functions, made.reference, shown, stop)
    result = {
        "file": str(out),
        "weights": trained.source,
        "data": shown.source,
        **shown.facts,
        "compared_on": shown.text,
        "megabytes": size / 1e6,
        **result,
        **made.facts,
    }
    verdict.show(result, int8)
    return result


class Made(NamedTuple):
    """A file's contents and loader, its references, and functions to time it beside."""

    contents: list[bytes]
    load: Callable[[bytes], proof.Function]
    reference: dict[str, proof.Function]
    beside: dict[str, proof.Function]
    facts: dict[str, Any]


def _target(given: Arguments) -> tuple[str, Path]:
    """The format and the output file, in an existing folder."""
    kind = given.choice("format", FORMATS, "onnx")
    text = given.get("out")
    if text is None or not text.endswith(f".{kind}"):
        raise UserError(f"--out={text}: give a file name that ends in .{kind}.")
    if given.get("int8") and kind != "onnx":
        raise UserError("--int8 makes ONNX files: leave --format out.")
    if given.get("calibration") and not given.get("int8"):
        raise UserError("--calibration is for --int8; add it or leave both out.")
    out = Path(text)
    if out.is_dir():
        raise UserError(f"--out={text} is a folder; give the name of a file in it.")
    if not out.parent.is_dir():
        what = "is not a folder" if out.parent.exists() else "does not exist"
        raise UserError(f"--out={text}: {out.parent} {what}; give a file in a folder.")
    check_writable(out)
    needed = ("onnx", "onnxruntime") if kind == "onnx" else ("flatbuffers",)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(NOT_INSTALLED.format(missing[0]))
    return kind, out


def _check_quantized(given: Arguments, source: str) -> None:
    """Requires --int8 for a quantised run, which has its own ranges."""
    if given.get("int8") is None:
        raise UserError(
            f"{source} is quantised: add --int8, or export the float run that it was "
            "made from."
        )
    if given.get("calibration"):
        raise UserError(f"{source} has its own ranges: leave --calibration out.")


def _data(given: Arguments, trained: Trained) -> data.Data | None:
    if given.get("data") is None and given.get("workdir") is None:
        return None
    opened = evaluation.open_data(trained, given)
    evaluation.check_classes(opened, trained)
    return opened


def _shown(given: Arguments, trained: Trained, opened: data.Data | None) -> Images:
    """Test images as the model takes them, or random images."""
    count = given.whole("check", 256) or 256
    spec = trained.spec
    if opened is None:
        shape = (count, *spec.view.size, spec.view.channels)
        images = np.random.default_rng(0).standard_normal(shape, np.float32)
        text = f"{count} random images"
        return Images(images, None, "random images", {"images": count}, text)
    sample = opened.sample(count)
    batches = list(
        model_inputs(opened, sample, batch_size=BATCH, mean=spec.mean, std=spec.std)
    )
    return Images(
        np.concatenate([batch["image"] for batch in batches]),
        np.concatenate([batch["label"] for batch in batches]),
        opened.name,
        sample.facts(),
        f"{opened.name}: {sample}",
    )


def _quantized(
    given: Arguments,
    trained: Trained,
    model: nn.Module,
    variables: Any,
    opened: data.Data,
    stop: Stop,
) -> tuple[QuantizedModel, dict[str, Any]]:
    """The model with its own ranges, or calibrated now by the standard rules."""
    if isinstance(trained.model, QuantizedModel):
        return QuantizedModel(model, trained.model.rules), variables
    quantized = QuantizedModel(model, compress.standard_rules())
    count = given.whole("calibration", quantizing.IMAGES) or quantizing.IMAGES
    variables = quantizing.calibrated(
        quantized,
        variables,
        opened,
        opened.sample(count, "train"),
        mean=trained.spec.mean,
        std=trained.spec.std,
        check=stop.check,
    )
    return quantized, variables


def _make(
    given: Arguments,
    trained: Trained,
    opened: data.Data | None,
    kind: str,
    int8: bool,
    stop: Stop,
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

    quantized, stored = _quantized(given, trained, model, stored, opened, stop)
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
    stop: Stop,
) -> dict[str, Any]:
    file = next(iter(functions.values()))
    logits = proof.outputs(file, shown.images)
    broken = int((~np.isfinite(logits)).any(-1).sum())
    if broken:
        raise UserError(
            f"the exported file's logits are not finite on {broken} of {len(logits)} "
            "images, so it was not kept; check the weights."
        )
    result: dict[str, Any] = {}
    for name, reference in references.items():
        stop.check()
        expected = proof.outputs(reference, shown.images)
        result[name] = proof.compare(logits, expected, shown.labels)
    result["latency_ms"] = proof.latency(functions, shown.images, check=stop.check)
    return result
