"""Checks of a `VisionTransformer`'s fields, with one-line errors."""

from typing import Any

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import checks, pruned
from vit_jax_tricks.models.layers import functional, initializers
from vit_jax_tricks.models.layers.attention import QKV
from vit_jax_tricks.models.layers.norm import NORMS
from vit_jax_tricks.models.positions import RELATIVE, Positions, parse


# timm's `Block`, `ResPostBlock` and `ParallelScalingBlock`.
BLOCKS = ("pre_norm", "post_norm", "parallel_scaling")
# timm's `Mlp`, `SwiGLU`, `SwiGLUPacked`; int(d * mlp_ratio) units after the gate.
MLPS = ("mlp", "swiglu", "swiglu_packed")
POOLS = ("token", "avg", "avgmax", "max", "map", "prr")


def check(model: Any) -> None:
    """Raises UserError if the fields contradict one another."""
    sizes = ("patch_size", "in_chans", "embed_dim", "num_heads", "parallel")
    checks.check_least(model, {**dict.fromkeys(sizes, 1), "depth": 0, "reg_tokens": 0})
    checks.check_rates(model)
    checks.check_hidden(model, model.embed_dim)
    if model.head_dim is None or model.global_pool in ("map", "prr"):
        checks.check_heads(model)
    if model.head_dim is not None and model.head_dim < 1:
        raise UserError(f"head_dim={model.head_dim} is too small; use 1 or more.")
    checks.check_patches(model)
    choices = {
        "global_pool": POOLS,
        "drop_path_decay": ("linear", "constant"),
        "stem": ("patch", "hmlp"),
        "act_layer": tuple(functional.ACTIVATIONS),
        "norm_layer": tuple(NORMS),
        "mlp_layer": MLPS,
        "block_fn": BLOCKS,
        "qkv": QKV,
        "weight_init": tuple(initializers.VIT),
        "rope_grid_indexing": ("ij", "xy"),
    }
    checks.check_choices(model, choices)
    _check_tokens(model)
    if model.stem == "hmlp" and (model.patch_size != 16 or model.embed_dim % 4):
        raise UserError(
            'stem="hmlp" needs patch_size=16 and an embed_dim divisible by 4; got '
            f"patch_size={model.patch_size}, embed_dim={model.embed_dim}."
        )
    positions = parse(model.pos_embed)
    _check_positions(model, positions)
    _check_pruned(model, positions)
    if model.block_fn == "parallel_scaling":
        plain = {
            "parallel": 1,
            "mlp_layer": "mlp",
            "qkv": "fused",
            "scale_attn_norm": False,
            "scale_mlp_norm": False,
        }
        for field, value in plain.items():
            if getattr(model, field) != value:
                raise UserError(
                    f'block_fn="parallel_scaling" needs {field}={value!r}; got '
                    f"{getattr(model, field)!r}."
                )
        if positions.relative is not None and not model.shared_rel_pos:
            raise UserError(
                'block_fn="parallel_scaling" supports no per-block '
                f'"{positions.relative}"; use shared_rel_pos=True or another pos_embed.'
            )


def _check_pruned(model: Any, positions: Positions) -> None:
    """Checks that unequal blocks share no per-head positions and are not parallel."""
    pruned.check(model, model.depth)
    if model.block_heads is not None and (
        model.shared_rel_pos or positions.rope == "rope_mixed"
    ):
        what = "shared_rel_pos=True" if model.shared_rel_pos else "rope_mixed"
        raise UserError(
            f"block_heads: with {what} all blocks share positions by head; leave it "
            "out."
        )
    for field in pruned.FIELDS.values():
        if model.block_fn == "parallel_scaling" and getattr(model, field) is not None:
            raise UserError(f'{field} needs another block_fn than "parallel_scaling".')


def _check_tokens(model: Any) -> None:
    """Checks that the class token exists if something needs it."""
    if not model.class_token and (model.global_pool == "token" or model.distilled):
        raise UserError(
            'class_token=False needs global_pool="avg" and distilled=False, since '
            "there is no token to classify from."
        )
    if model.distilled and model.global_pool != "token":
        raise UserError('distilled=True needs global_pool="token".')


def _check_positions(model: Any, positions: Positions) -> None:
    """Checks that the encodings fit the sizes and one another."""
    for field in ("rel_pos_dim", "irpe_ratio", "rope_temperature"):
        value = getattr(model, field)
        if value is not None and value <= 0:
            raise UserError(f"{field}={value} must be over 0, or None for the default.")
    name = positions.absolute or ""
    if name.startswith("sincos") and model.embed_dim % 4:
        raise UserError(
            f'pos_embed="{name}" needs an embed_dim divisible by 4; got '
            f"{model.embed_dim}."
        )
    head_dim = model.head_width
    if positions.rope is not None and head_dim % 4:
        raise UserError(
            f'pos_embed="{positions.rope}" needs embed_dim / num_heads divisible by 4; '
            f"got {head_dim}."
        )
    if positions.relative is not None and model.patch_drop_rate > 0:
        raise UserError(
            f'pos_embed="{positions.relative}" has a bias for every pair of tokens; '
            "use patch_drop_rate=0 or another encoding."
        )
    if model.shared_rel_pos and positions.relative not in RELATIVE:
        raise UserError(
            "shared_rel_pos=True needs a pos_embed that one bias can hold: "
            f"{', '.join(RELATIVE)}."
        )
    if positions.relative == "convit":
        for field in ("qk_norm", "scale_attn_norm"):
            if getattr(model, field):
                raise UserError(f'pos_embed="convit" needs {field}=False.')
        if positions.rope is not None:
            raise UserError(f'pos_embed="convit" does not go with {positions.rope}.')
