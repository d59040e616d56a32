"""Compression: quantisation with its calibration, and pruning with its scores."""

from vit_jax_tricks.compress.pruning import scores
from vit_jax_tricks.compress.pruning.gates import gated_apply, masked_apply
from vit_jax_tricks.compress.pruning.groups import Group, find_groups
from vit_jax_tricks.compress.pruning.pruned import Pruned, prune, pruned_model, shrink
from vit_jax_tricks.compress.quant import clipping, observers
from vit_jax_tricks.compress.quant.apply import quantize_params, quantized_apply
from vit_jax_tricks.compress.quant.calibration import calibrate, weight_ranges
from vit_jax_tricks.compress.quant.fake_quant import (
    fake_quant,
    learned_fake_quant,
    learned_step,
)
from vit_jax_tricks.compress.quant.grids import Grid, grid
from vit_jax_tricks.compress.quant.integer import (
    dequantize,
    int8_linear,
    integer_dot,
    quantize,
)
from vit_jax_tricks.compress.quant.model import QuantizedModel
from vit_jax_tricks.compress.quant.places import quantized_places, quantized_weights
from vit_jax_tricks.compress.quant.range_store import without_ranges
from vit_jax_tricks.compress.quant.ranges import (
    Range,
    affine_range,
    next_power_of_two,
    symmetric_range,
)
from vit_jax_tricks.compress.quant.rules import SENSITIVE, Rule, standard_rules
from vit_jax_tricks.compress.quant.sensitivity import Cost, sensitivity
from vit_jax_tricks.compress.quant.spec import Spec


__all__ = [
    "SENSITIVE",
    "Cost",
    "Grid",
    "Group",
    "Pruned",
    "QuantizedModel",
    "Range",
    "Rule",
    "Spec",
    "affine_range",
    "calibrate",
    "clipping",
    "dequantize",
    "fake_quant",
    "find_groups",
    "gated_apply",
    "grid",
    "int8_linear",
    "integer_dot",
    "learned_fake_quant",
    "learned_step",
    "masked_apply",
    "next_power_of_two",
    "observers",
    "prune",
    "pruned_model",
    "quantize",
    "quantize_params",
    "quantized_apply",
    "quantized_places",
    "quantized_weights",
    "scores",
    "sensitivity",
    "shrink",
    "standard_rules",
    "symmetric_range",
    "weight_ranges",
    "without_ranges",
]
