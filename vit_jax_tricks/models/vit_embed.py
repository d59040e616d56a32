"""Embeds images as tokens with positions, for a `VisionTransformer`."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.patch_embed import HierarchicalStem, PatchEmbed
from vit_jax_tricks.models.layers.relative_bias import MixedRotary
from vit_jax_tricks.models.positions import ABSOLUTE, ROPE, Positions
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float, Int


def embed(
    model: Any, images: Float[Array, "b h w c"], positions: Positions, train: bool
) -> tuple[Float[Array, "b n d"], Int[Array, "b n"] | None]:
    """Embeds images as tokens with positions, prefix tokens first.

    Also returns the indices of the kept tokens, or None if all are kept.
    """
    x = _stem(model)(images, train)
    b, n, d = x.shape
    prefix = _prefix(model)
    prefix = [jnp.broadcast_to(p, (b, *p.shape[1:])) for p in prefix]
    if positions.absolute == "learn":
        table = _param(model, "pos_embed", n + model.position_prefix, 0.02)
        if model.no_embed_class:
            x = jnp.concatenate([*prefix, x + table], axis=1)
        else:
            x = jnp.concatenate([*prefix, x], axis=1) + table
    else:
        if positions.absolute is not None:
            form = ABSOLUTE[positions.absolute]
            table = functional.sincos_2d(model.grid, d, form=form)
            x = x + jnp.asarray(table, model.dtype)[None]
        x = jnp.concatenate([*prefix, x], axis=1)
    x = nn.Dropout(model.pos_drop_rate, deterministic=not train)(x)
    if not train or model.patch_drop_rate == 0:
        return constrain(x), None
    key, rate = model.make_rng("dropout"), model.patch_drop_rate
    kept = functional.kept_tokens(key, (b, n), rate, prefix=model.prefix_tokens)
    return constrain(jnp.take_along_axis(x, kept[:, :, None], axis=1)), kept


def rotary(
    model: Any, positions: Positions, kept: Int[Array, "b n"] | None
) -> Float[Array, "..."] | None:
    """The `rope` of `run_blocks`: [#b, n, 1, e], or [l, #b, n, g, e] for each block."""
    kind = positions.rope
    if kind is None:
        return None
    head_dim = model.head_width
    table = partial(functional.rotary_table, prefix=model.prefix_tokens)
    reference = model.ref_feat_shape
    if isinstance(reference, int):
        reference = (reference, reference)
    heat = model.rope_temperature
    heat = ROPE[kind] if heat is None else heat
    if kind == "rope_dinov3":
        angles = functional.rotary_dinov3(model.grid, head_dim, temperature=heat)
        rope = table(angles, half=True)[None, :, None]
    else:
        points = functional.rotary_coordinates(
            model.grid,
            indexing=model.rope_grid_indexing,
            offset=model.rope_grid_offset,
            reference=reference,
        )
        if kind == "rope_axial":
            angles = functional.rotary_axial(points, head_dim, temperature=heat)
            rope = table(angles)[None, :, None]
        else:
            angles = MixedRotary(
                (model.depth, model.num_heads),
                head_dim,
                heat,
                model.param_dtype,
                name="rope",
            )(points)
            rope = table(angles).swapaxes(1, 2)[:, None]
    if kept is None:
        return jnp.asarray(rope)
    index = kept[:, :, None, None]
    index = index[None] if rope.ndim == 5 else index
    return jnp.take_along_axis(jnp.asarray(rope), index, axis=-3)


def _stem(model: Any) -> nn.Module:
    dtypes = {"dtype": model.dtype, "param_dtype": model.param_dtype}
    if model.stem == "hmlp":
        return HierarchicalStem(model.embed_dim, name="patch_embed", **dtypes)
    return PatchEmbed(
        model.embed_dim,
        model.patch_size,
        use_bias=not model.pre_norm,
        name="patch_embed",
        **dtypes,
    )


def _prefix(model: Any) -> list[Float[Array, "1 r d"]]:
    """The class, distillation and register tokens."""
    small = 0.02 if model.weight_init == "eva" else 1e-6
    tokens = []
    if model.class_token:
        tokens.append(_param(model, "cls_token", 1, small))
    if model.distilled:
        tokens.append(_param(model, "dist_token", 1, 0.02))
    if model.reg_tokens:
        tokens.append(_param(model, "reg_token", model.reg_tokens, small))
    return tokens


def _param(model: Any, name: str, rows: int, std: float) -> Float[Array, "1 r d"]:
    init, shape = nn.initializers.normal(std), (1, rows, model.embed_dim)
    return model.param(name, init, shape, model.param_dtype).astype(model.dtype)
