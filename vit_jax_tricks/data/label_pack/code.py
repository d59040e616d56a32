"""Encoding of an example in a label pack: eight bits per token score, in one record."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Float, Int, Shaped


STEPS = 255  # steps between the smallest and largest token score of an example


def record_dtype(grid: tuple[int, int], top: int) -> np.dtype:
    """Fields of an example in the order of its bytes, all little-endian."""
    return np.dtype(
        [
            ("label", "<u2"),
            ("class_classes", "<u2", (top,)),
            ("class_scores", "<f4", (top,)),
            ("token_range", "<f4", (2,)),
            ("token_classes", "<u2", (*grid, top)),
            ("token_scores", "u1", (*grid, top)),
        ]
    )


def encode(
    *,
    labels: Int[np.ndarray, "b"],
    class_scores: Float[np.ndarray, "b t"],
    class_classes: Int[np.ndarray, "b t"],
    token_scores: Float[np.ndarray, "b p q t"],
    token_classes: Int[np.ndarray, "b p q t"],
) -> Shaped[np.ndarray, "b"]:
    """Encodes examples as records.

    Token scores become low + code * step, with the example's own smallest score as low
    and step = (largest - smallest) / 255. Each score is then off by at most step / 2,
    and each probability of its softmax by at most tanh(step / 4); the other fields are
    exact.

    Raises:
      UserError: scores that are not finite.
    """
    if not (np.isfinite(token_scores).all() and np.isfinite(class_scores).all()):
        raise UserError(
            "the teacher's scores are not finite; check its weights, or give "
            "--teacher.model.dtype=float32."
        )
    b, *grid, top = token_scores.shape
    records = np.zeros(b, record_dtype((grid[0], grid[1]), top))
    low = token_scores.min((1, 2, 3)).astype(np.float32)
    step = (token_scores.max((1, 2, 3)).astype(np.float32) - low) / np.float32(STEPS)
    each = (slice(None), None, None, None)
    codes = (token_scores - low[each]) / np.where(step > 0, step, 1)[each]
    records["label"] = labels
    records["class_classes"] = class_classes
    records["class_scores"] = class_scores
    records["token_range"] = np.stack([low, step], axis=1)
    records["token_classes"] = token_classes
    records["token_scores"] = np.clip(np.round(codes), 0, STEPS)
    return records


def decode(rows: Mapping[str, Array]) -> dict[str, jax.Array]:
    """Decodes `LabelPack.rows`: scores as float32, classes as int32; works under jit.

    token_scores = low + step * code, (low, step) = token_range.

    Returns:
      `token_scores`, `token_classes` [b, p, q, t], `class_scores`, `class_classes` [b,
        t].
    """
    low, step = (
        jnp.asarray(rows["token_range"])[:, i, None, None, None] for i in (0, 1)
    )
    codes = jnp.asarray(rows["token_scores"]).astype(jnp.float32)
    return {
        "token_scores": low + step * codes,
        "token_classes": jnp.asarray(rows["token_classes"]).astype(jnp.int32),
        "class_scores": jnp.asarray(rows["class_scores"]),
        "class_classes": jnp.asarray(rows["class_classes"]).astype(jnp.int32),
    }
