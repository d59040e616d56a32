"""Descriptions of a `VisionTransformer`: what can be pruned and classified."""

from typing import Any

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import pruned
from vit_jax_tricks.models.blocks import BlockParts, numbered
from vit_jax_tricks.models.token_head import TokenHead


# Norms over all heads or hidden units together: removing one changes all the others.
NORMS = {"heads": "scale_attn_norm", "hidden": "scale_mlp_norm"}


def blocks(model: Any) -> list[BlockParts]:
    """`ImageModel.blocks`; of parallel branches, the first."""
    hidden = int(model.embed_dim * model.mlp_ratio)
    one = {"num_heads": model.num_heads, "mlp_hidden": hidden}
    layers = pruned.layers(model, [one] * model.depth)
    if model.block_fn == "parallel_scaling":
        return numbered(layers, attention="attn_out_proj", mlp="mlp_out_proj")
    return numbered(layers)


def unprunable(model: Any) -> dict[str, str]:
    """`ImageModel.unprunable`."""
    if model.parallel > 1:
        return dict.fromkeys(
            NORMS,
            f"parallel={model.parallel}: parallel branches of a block cannot be "
            "pruned.",
        )
    return {
        kind: f"{field}=True normalises all {kind} together, so none can be removed "
        f"without changing the others; prune without {kind}."
        for kind, field in NORMS.items()
        if getattr(model, field)
    }


def fixed_width(model: Any) -> str | None:
    """`ImageModel.fixed_width`."""
    if model.stem != "patch":
        return f'stem="{model.stem}" has a fixed width'
    if model.global_pool in ("map", "prr"):
        return f'global_pool="{model.global_pool}" cuts the width into heads'
    if model.positions.absolute not in (None, "learn"):
        return f'pos_embed="{model.pos_embed}" is computed from the width'
    return None


def token_head(model: Any) -> TokenHead:
    """`ImageModel.token_head`."""
    pool = model.global_pool
    if pool in ("map", "prr"):
        raise UserError(
            f'global_pool="{pool}": an image\'s classes come from attention over all '
            "its places, so no place has its own classes; use another teacher."
        )
    fc_norm = model.fc_norm is None or model.fc_norm
    exact = pool == "avg" and not (model.final_norm and fc_norm)
    exact &= not (model.pool_include_prefix and model.prefix_tokens)
    return TokenHead.at_each_place(model.grid, exact=exact)
