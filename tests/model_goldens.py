"""The checks of a model against its reference, the same for every family.

Weights go in by their reference names, values and gradients come out and are compared.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from goldens import base_normal, golden_images, golden_state, load_golden

from vit_jax_tricks.flops import Flops, count_flops
from vit_jax_tricks.models import create_model
from vit_jax_tricks.models.registry import lookup
from vit_jax_tricks.pretrained.export import reference_arrays
from vit_jax_tricks.pretrained.load import load_arrays


# For programs that run once: less time in the compiler is less time in total.
jit_once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@dataclasses.dataclass(frozen=True)
class Case:
    """A reference file and the model that must equal it.

    `overrides` come on top of the manifest's own keyword arguments without `drop`.
    `modules` translates names of the reference's modules where
    `layers.0.blocks.1` -> `layers_0/blocks_1` is not the rule. `dialect` names the key
    names of the file where they are not those of the model name.
    """

    golden: str
    name: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    modules: Mapping[str, str] = dataclasses.field(default_factory=dict)
    drop: tuple[str, ...] = ("pretrained_cfg",)
    dialect: str | None = None

    def __str__(self) -> str:
        return self.golden.split("/")[-1]

    def create(self, dtype: str, manifest: dict[str, Any], **more: Any) -> Any:
        """The model; `more` on top of all other fields."""
        kwargs = {k: v for k, v in manifest["kwargs"].items() if k not in self.drop}
        kwargs |= self.overrides
        kwargs.setdefault("num_classes", manifest["output_shape"][1])
        return create_model(
            self.name, **{**kwargs, "dtype": dtype, "param_dtype": dtype, **more}
        )

    def build(self, dtype: str, **more: Any) -> tuple[Any, Any, Any, dict, dict]:
        """Model, variables from reference keys, images, manifest and arrays."""
        manifest, arrays = load_golden(self.golden)
        model = self.create(dtype, manifest, **more)
        variables, report = load_arrays(model, golden_state(self.golden))
        assert not report.reset
        assert not report.unused
        images = jnp.asarray(golden_images(manifest), dtype)
        return model, variables, images, manifest, arrays

    def path(self, trace: str) -> str:
        """Our module path for the name of a reference module."""
        return self.modules.get(trace) or re.sub(r"\.(\d+)", r"_\1", trace).replace(
            ".", "/"
        )


def assert_close(actual: Any, expected: np.ndarray, atol: float) -> None:
    """Within `atol` everywhere."""
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=atol)


def check_modules(case: Case, **more: Any) -> None:
    """Float32 logits and the whole output of every stored module, within 2e-5."""
    model, variables, images, manifest, arrays = case.build("float32", **more)
    paths = {t: tuple(case.path(t).split("/")) for t in manifest["trace_names"]}

    def run(variables: Any, images: Any) -> Any:
        return model.apply(
            variables,
            images,
            capture_intermediates=lambda module, _: module.path in paths.values(),
            mutable=["intermediates"],
        )

    (logits, aux), state = jit_once(run)(variables, images)
    compared = 0
    for trace, path in paths.items():
        if f"block:{trace}" not in arrays:
            continue
        output: Any = state["intermediates"]
        for part in path:
            output = output[part]
        expected = arrays[f"block:{trace}"]
        output = output["__call__"][0]
        assert_close(np.asarray(output).reshape(expected.shape), expected, 2e-5)
        compared += 1
    assert compared
    assert_close(logits, arrays["logits"], 2e-5)
    assert_close(aux["features"], arrays["features"], 2e-5)


def check_gradients(case: Case, **more: Any) -> None:
    """Float64 logits and the gradient of every parameter, to 1e-9; their number."""
    model, variables, images, manifest, arrays = case.build("float64", **more)
    coef = base_normal(f"coef:{manifest['model']}", manifest["output_shape"])
    coef = jnp.asarray(coef, jnp.float64)

    def loss(params: Any) -> Any:
        logits, aux = model.apply({**variables, "params": params}, images)
        return (logits * coef).sum(), (logits, aux)

    grads, (logits, aux) = jit_once(jax.grad(loss, has_aux=True))(variables["params"])
    assert_close(logits, arrays["logits64"], 1e-9)
    assert_close(aux["features"], arrays["features"], 2e-5)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    assert count == manifest["n_params_trainable"]
    # Statistics belong to the state of a model with batch norm, not to its gradient.
    grads = reference_arrays({"params": grads}, case.name, case.dialect)
    checked = 0
    rows = zip(manifest["state"], arrays["grad_l2_and_probe"], strict=True)
    for (key, shape, *_, role), (norm, dot) in rows:
        if role != "param":
            continue
        probe = base_normal(f"probe:{key}", shape).astype(np.float64)
        grad = grads[key]
        assert grad.shape == tuple(shape)
        assert_close(np.linalg.norm(grad), norm, 1e-9 * max(norm, 1))
        assert_close((grad * probe).sum(), dot, 1e-9 * max(norm, 1))
        checked += 1
    assert checked == len(grads)


def check_values(case: Case, dtype: str, **more: Any) -> None:
    """Logits and features of a full-size model; parameters and MACs exactly."""
    model, variables, images, manifest, arrays = case.build(dtype, **more)
    logits, aux = evaluate(model, variables, images)
    double = dtype == "float64"
    name, atol = ("logits64", 1e-9) if double else ("logits", 2e-5)
    assert_close(logits, arrays[name], atol)
    assert_close(aux["features"], arrays["features"], 2e-5)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    assert count == manifest["n_params_trainable"]
    if not double:
        assert macs(model, variables) == manifest["macs_one_image"]


@partial(
    jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 1}
)
def evaluate(model: Any, variables: Any, images: Any) -> Any:
    """`model.apply` of a full-size model, compiled once for equal ones."""
    return model.apply(variables, images)


def macs(model: Any, variables: Any = None) -> int:
    """Multiply-accumulates of one image; `variables` save tracing their start."""
    if variables is None:
        return _counts(model)[1].macs
    return count_flops(model.apply, variables, _image(model)).macs


@cache
def _counts(model: Any) -> tuple[int, Flops]:
    """Of the parameters and of the operations of one image, from one trace.

    Names that differ in weights and preprocessing alone have equal models.
    """
    shapes: Any = None

    def start(key: Any, image: Any) -> Any:
        nonlocal shapes
        outputs, variables = model.init_with_output(key, image)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables
        )
        return outputs

    image = _image(model)
    operations = count_flops(start, jax.random.key(0), image)
    if getattr(model, "rope_type", "") == "mixed":  # its start rotates frequencies
        operations = count_flops(model.apply, shapes, image)
    leaves = jax.tree.leaves(shapes["params"])
    return sum(math.prod(leaf.shape) for leaf in leaves), operations


def _image(model: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *model.image_shape), model.dtype)


@cache
def published_counts() -> dict[str, dict[str, Any]]:
    """timm's own counts by name: params, num_classes, input_size, macs."""
    _, arrays = load_golden("models_full/timm_param_counts")
    return json.loads(arrays["json_utf8"].tobytes())


def check_count(name: str, *, operations: bool) -> None:
    """The registered number of parameters is that of the model, and timm's.

    With `operations` the multiply-accumulates are timm's too.
    """
    entry = lookup(name)
    model: Any = create_model(name, num_classes=entry.parameters_classes)
    if hasattr(model, "scan"):
        model = model.clone(scan=True)  # the same numbers, traced sooner
    count, counted = _counts(model)
    assert count == entry.parameters
    reference = published_counts().get(name)
    if reference is None:
        return
    assert (count, entry.parameters_classes) == (
        reference["params"],
        reference["num_classes"],
    )
    size = reference["input_size"]
    assert model.image_shape == (size[1], size[2], size[0])
    if operations:
        assert (counted.macs, counted.notes) == (reference["macs"], ())
        assert counted.flops == 2 * counted.macs
