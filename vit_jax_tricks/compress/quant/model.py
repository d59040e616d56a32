"""A model together with its quantisation, for training steps and commands."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vit_jax_tricks.compress.quant.apply import quantized_apply
from vit_jax_tricks.compress.quant.calibration import weight_ranges
from vit_jax_tricks.compress.quant.places import layer_names, quantized_places
from vit_jax_tricks.compress.quant.range_store import (
    packed,
    stored,
    unpacked,
    with_stored,
    without_ranges,
)
from vit_jax_tricks.compress.quant.ranges import Range
from vit_jax_tricks.compress.quant.rules import Rule, match, of_model
from vit_jax_tricks.compress.quant.spec import Spec
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.token_head import TokenHead
from vit_jax_tricks.models.wrapper import ModelWrapper
from vit_jax_tricks.param_names import parameters
from vit_jax_tricks.typing import Array, Num, Params


@dataclasses.dataclass(frozen=True)
class QuantizedModel(ModelWrapper):
    """`model` with every place named by `rules` fake-quantised, in training too.

    Its variables are the model's, with `params["quant"]` (see `range_store`). A
    calibrated range is used in one of three ways:

    * a learned one (LSQ) is trained;
    * the step of a weight with the observer "min_max" is not stored but computed from
    the weight at each call, s = max|w| / high, so that no weight is ever clipped;
    * any other keeps its calibrated value, as in NVIDIA's recipe (no gradient reaches
    it, and no decay).
    """

    rules: tuple[Rule, ...]

    def apply(
        self,
        variables: Mapping[str, Any],
        images: Num[Array, "b h w c"],
        *,
        train: bool = False,
        **options: Any,
    ) -> Any:
        """Applies the quantised model; `variables` also hold the ranges."""
        return quantized_apply(
            self.model,
            without_ranges(variables),
            images,
            self.ranges(variables),
            self.rules,
            train=train,
            **options,
        )

    def ranges(self, variables: Mapping[str, Any]) -> dict[str, Range]:
        """The range of every place, in the form that `quantized_apply` takes."""
        params, kept = without_ranges(variables)["params"], stored(variables)
        specs = self._specs(params, kept)
        follow = {n: spec for n, spec in specs.items() if _follows(n, spec, kept)}
        found = {name: unpacked(specs[name], leaves) for name, leaves in kept.items()}
        return {**found, **weight_ranges(params, follow)}

    def with_ranges(
        self, variables: Mapping[str, Any], ranges: Mapping[str, Range]
    ) -> dict[str, Any]:
        """The variables with calibrated ranges added."""
        params = without_ranges(variables)["params"]
        specs = self._specs(params, ranges)
        inputs = ranges.keys() - parameters(params).keys()
        kept = {
            name: packed(specs[name], found)
            for name, found in ranges.items()
            if not _follows(name, specs[name], inputs)
        }
        return with_stored(variables, kept)

    def with_any_ranges(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The variables with uncalibrated ranges of the right shapes added.

        Raises: UserError as `quantized_places` does.
        """
        params = without_ranges(variables)["params"]
        images = jnp.zeros((1, *self.image_shape), jnp.float32)
        places = quantized_places(
            self.model, without_ranges(variables), images, self.rules
        )
        weights = parameters(params)
        ranges = weight_ranges(
            params, {n: s for n, s in places.items() if n in weights}
        )
        for name, spec in places.items():
            if name not in weights:
                group = layer_names(name, weights)
                one = jnp.ones(() if name in group else (len(group),), jnp.float32)
                ranges[name] = spec.range(-one, one)
        return self.with_ranges(variables, ranges)

    def token_head(self) -> TokenHead:
        """Raises UserError: only the float model classifies places."""
        raise UserError(
            "a quantised model has no token logits; use the float run that it was "
            "made from."
        )

    def _specs(self, params: Params, more: Mapping[str, Any]) -> dict[str, Spec]:
        weights = parameters(params)
        names = {name: layer_names(name, weights) for name in [*weights, *more]}
        specs = match(names, of_model(self.rules, self.model))
        if odd := sorted(more.keys() - specs.keys()):
            raise UserError(f"{odd[0]} has a range but no rule: calibrate it again.")
        return specs


def _follows(name: str, spec: Spec, inputs: Any) -> bool:
    """Whether a place not in `inputs` derives its step from the weight itself."""
    return name not in inputs and spec.observer == "min_max" and not spec.learned
