"""Relative position bias of attention logits, for each head and offset."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.models.layers import functional, initializers
from vit_jax_tricks.models.layers.functional.relative_position import one_hot_bias
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.typing import Array, Float


class RelativeBias(nn.Module):
    """Bias of each head between any two tokens of a grid (h, w), n = h w + prefix.

    `kind` "bias": a table [(2h - 1)(2w - 1), g] indexed by query - key, as in Swin.
    "mlp": the offsets in logarithmic coordinates pass through an MLP of `hidden` units,
    with dropout `hidden_drop` on these units in training. "mlp_swin": Swin V2's
    coordinates, no last bias, and 16 sigmoid(y). "bias_tf": a table [g, 2h - 1, 2w - 1]
    indexed by key - query, as in google-research/maxvit.

    The `prefix` leading tokens have no offset. In the table "bias" they have three more
    rows, for prefix to token, token to prefix and prefix to prefix (BEiT); in the other
    kinds their bias is 0. Equivalent to timm's `RelPosBias`, `RelPosMlp` and
    `RelPosBiasTf`.
    """

    grid: tuple[int, int]
    kind: str = "bias"
    num_heads: int = 1
    prefix: int = 0
    hidden: int = 128
    hidden_drop: float = 0.125
    table_std: float = 0.02
    inits: Callable[[int], initializers.Inits] = initializers.vit
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        q: Float[Array, "b n g h"] | None = None,
        k: Float[Array, "b n g h"] | None = None,
        scale: float | None = None,
        train: bool = False,
    ) -> Float[Array, "1 g n n"]:
        """The bias; `q`, `k` and `scale` exist for encodings that need them."""
        del q, k, scale
        pads = [(0, 0), (self.prefix, 0), (self.prefix, 0)]
        if self.kind == "bias":
            index = prefixed_index(self.grid, self.prefix)
            table = self._table(int(index.max()) + 1, self.num_heads)
            return functional.relative_bias(table, index)[None]
        if self.kind == "bias_tf":
            h, w = self.grid
            table = self._table(self.num_heads, 2 * h - 1, 2 * w - 1)
            return jnp.pad(one_hot_bias(table), pads)[None]
        index = functional.relative_position_index(self.grid)
        bias = functional.relative_bias(self._mlp(train), index)
        if self.kind == "mlp_swin":
            bias = 16 * jax.nn.sigmoid(bias)
        return jnp.pad(bias, pads)[None]

    def _table(self, *shape: int) -> Float[Array, "..."]:
        init = nn.initializers.normal(self.table_std)
        name = "relative_position_bias_table"
        return self.param(name, init, shape, self.param_dtype).astype(self.dtype)

    def _mlp(self, train: bool) -> Float[Array, "r g"]:
        swin = self.kind == "mlp_swin"
        coords = functional.log_spaced_coords(self.grid, mode="swin" if swin else "cr")
        mlp = Mlp(
            self.hidden,
            "relu",
            self.hidden_drop,
            features=self.num_heads,
            out_drop=0.0,
            out_bias=not swin,
            inits=self.inits,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="mlp",
        )
        return mlp(jnp.asarray(coords.reshape(-1, 2), self.dtype), train)


def prefixed_index(grid: tuple[int, int], prefix: int) -> np.ndarray:
    """`relative_position_index` with `prefix` leading tokens that share three rows."""
    if not prefix:
        return functional.relative_position_index(grid)
    index = functional.relative_position_index(grid, class_token=True)
    tokens = np.maximum(np.arange(prefix + np.prod(grid)) - prefix + 1, 0)
    return index[tokens][:, tokens]


class MixedRotary(nn.Module):
    """Angles [l, g, n, h / 2] from learned frequencies `freqs` [2, l, g, h / 2].

    Source: Heo et al., 2024 (RoPE-Mixed), arXiv:2403.13298.
    """

    shape: tuple[int, int]
    head_dim: int
    temperature: float = 10.0
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, coordinates: Float[np.ndarray, "n 2"]) -> Float[Array, "..."]:
        def init(key, shape, dtype):
            del shape
            draw = partial(functional.mixed_frequencies, temperature=self.temperature)
            return draw(key, self.shape, self.head_dim).astype(dtype)

        shape = (2, *self.shape, self.head_dim // 2)
        frequencies = self.param("freqs", init, shape, self.param_dtype)
        return functional.rotary_mixed(frequencies, coordinates)
