"""Key names of CLIP's image tower: OpenAI's, and open_clip's with LayerScale."""

from typing import Any

import numpy as np

from vit_jax_tricks.pretrained.patches import patch_embedding
from vit_jax_tricks.pretrained.resize import positions
from vit_jax_tricks.pretrained.rules import (
    CONV,
    PROJ,
    QKV,
    QKV_BIAS,
    KeyRule,
    Transform,
    linear,
    norm,
)


# (d) <-> [1, 1, d] and (n, d) <-> [1, n, d].
ROW = Transform(lambda w, shape: w.reshape(shape), lambda w: w[0, 0])
TABLE = Transform(lambda w, shape: w.reshape(shape), lambda w: w[0])
# Keys of the text tower and of the pair, which do not belong to an image tower.
TEXT_TOWER = (
    r"((transformer|token_embedding|ln_final|text)\..*"
    r"|positional_embedding|text_projection|logit_scale|logit_bias|attn_mask"
    r"|input_resolution|context_length|vocab_size)"
)


def _table(
    array: np.ndarray,
    expected: tuple[int, ...],
    model: Any,
    path: str,
    *,
    old_grid: tuple[int, int] | None = None,
) -> np.ndarray:
    """`positions` for a table without a batch axis."""
    table = array[None]
    fitted = positions(table, (1, *expected), model, path, old_grid=old_grid)
    return array if fitted is table else fitted[0]


_KEY, _PATH = "visual.transformer.resblocks.{i}", "blocks_{i}"
OPENAI = [
    KeyRule("visual.class_embedding", "params/cls_token", ROW),
    KeyRule("visual.positional_embedding", "params/pos_embed", TABLE, resize=_table),
    KeyRule(
        "visual.conv1.weight", "params/patch_embed/proj/kernel", CONV, patch_embedding
    ),
    *norm("visual.ln_pre", "norm_pre"),
    *norm(f"{_KEY}.ln_1", f"{_PATH}/norm1"),
    KeyRule(f"{_KEY}.attn.in_proj_weight", f"params/{_PATH}/attn/qkv/kernel", QKV),
    KeyRule(f"{_KEY}.attn.in_proj_bias", f"params/{_PATH}/attn/qkv/bias", QKV_BIAS),
    KeyRule(f"{_KEY}.attn.out_proj.weight", f"params/{_PATH}/attn/proj/kernel", PROJ),
    KeyRule(f"{_KEY}.attn.out_proj.bias", f"params/{_PATH}/attn/proj/bias"),
    *norm(f"{_KEY}.ln_2", f"{_PATH}/norm2"),
    *linear(f"{_KEY}.mlp.c_fc", f"{_PATH}/mlp/fc1"),
    *linear(f"{_KEY}.mlp.c_proj", f"{_PATH}/mlp/fc2"),
    *norm("visual.ln_post", "norm"),
    # The projection is used as x @ proj; timm has a classifier with a bias instead.
    KeyRule(
        "visual.proj", "params/head/kernel", head=True, zeros=("params/head/bias",)
    ),
]
DIALECTS = {
    "openai": OPENAI,
    "open_clip": [
        *OPENAI,
        KeyRule(f"{_KEY}.ls_1.gamma", f"params/{_PATH}/ls1/gamma"),
        KeyRule(f"{_KEY}.ls_2.gamma", f"params/{_PATH}/ls2/gamma"),
    ],
}
