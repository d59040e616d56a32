"""Parses `pos_embed`, the position encodings of a ViT, and builds their layers."""

import dataclasses
import re
from functools import partial
from typing import Any

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.irpe import Irpe, IrpeScores, IrpeValues
from vit_jax_tricks.models.layers.relative_bias import RelativeBias


# `pos_embed` joins names with "+", at most one from each group: "learn+rope_axial".
# Added to the tokens: a learned table, or fixed sines and cosines.
ABSOLUTE = {"learn": "", "sincos2d": "big_vision"} | {
    f"sincos2d_{form}": form for form in functional.SINCOS_FORMS if form != "big_vision"
}
# Added to the logits by offset; the values are `RelativeBias.kind`.
RELATIVE = {
    "rel_bias": "bias",
    "rel_bias_tf": "bias_tf",
    "rel_mlp": "mlp",
    "log_cpb": "mlp_swin",
}
# Rotations of queries and keys, with the temperature of the released models.
ROPE = {"rope_axial": 10000.0, "rope_mixed": 10.0, "rope_dinov3": 100.0}
_IRPE = re.compile(
    r"irpe_(bias|ctx)_(product|euclidean|quant|cross)(_shared)?_(q?k?v?)"
)
IRPE_FORM = "irpe_{bias,ctx}_{product,euclidean,quant,cross}[_shared]_{q,k,v,qk,qkv}"


@dataclasses.dataclass(frozen=True)
class Positions:
    """The encodings of a model, by group; None if it uses none of the group."""

    absolute: str | None = None
    relative: str | None = None
    rope: str | None = None


def parse(pos_embed: str) -> Positions:
    """Parses `pos_embed`, such as "learn", "none", "rope_axial" or "learn+rel_bias".

    Raises:
        UserError: an unknown name, or two names of the same group.
    """
    found: dict[str, str] = {}
    for name in pos_embed.split("+") if pos_embed not in ("", "none") else ():
        group = _group(name)
        if group in found:
            raise UserError(
                f'pos_embed="{pos_embed}" has two {group} encodings, {found[group]} '
                f"and {name}; keep one of them."
            )
        found[group] = name
    return Positions(**found)


def _group(name: str) -> str:
    irpe = _IRPE.fullmatch(name)
    if name in RELATIVE or name == "convit" or (irpe and irpe[4]):
        if irpe and irpe[1] == "bias" and "v" in irpe[4]:
            raise UserError(f'pos_embed="{name}": values need "irpe_ctx_", not bias.')
        return "relative"
    groups = {"absolute": ABSOLUTE, "rope": ROPE}
    for group, names in groups.items():
        if name in names:
            return group
    known = [*ABSOLUTE, *RELATIVE, "convit", *ROPE, "none", IRPE_FORM]
    raise UserError(f'pos_embed has no encoding "{name}".{nearest(name, known)}')


def relative_layers(
    name: str | None,
    grid: tuple[int, int],
    *,
    prefix: int,
    hidden: int | None = None,
    ratio: float | None = None,
    table_std: float = 0.02,
    inits: Any,
) -> dict[str, Any]:
    """Builds the fields `rel_pos` and `rel_values` of an `Attention`.

    `hidden` is the number of units of a position MLP, and `ratio` sets the buckets of
    iRPE; None takes the released models' value. `table_std` and `inits` initialise
    tables and position MLPs.
    """
    if name in RELATIVE:
        kind = RELATIVE[name]
        more: dict[str, Any] = {} if hidden is None else {"hidden": hidden}
        more |= {"prefix": prefix, "table_std": table_std, "inits": inits}
        return {"rel_pos": partial(RelativeBias, grid, kind, **more)}
    match = _IRPE.fullmatch(name or "")
    if match is None:
        return {}
    mode, method, shared, on = match.groups()
    ratio = functional.IRPE_RATIOS[method] if ratio is None else ratio
    irpe = Irpe(grid, method, ratio, prefix, mode == "ctx", bool(shared))
    layers: dict[str, Any] = {}
    if on.strip("v"):
        layers["rel_pos"] = partial(IrpeScores, irpe, on=on)
    if "v" in on:
        layers["rel_values"] = partial(IrpeValues, irpe)
    return layers
