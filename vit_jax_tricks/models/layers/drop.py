"""Drop path as a module, which only supplies the key."""

import flax.linen as nn

from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.typing import Array, Float


class DropPath(nn.Module):
    """`functional.drop_path` with a key of the "dropout" stream; no rate, no drop."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *s"], rate: Float[Array, ""] | float | None
    ) -> Float[Array, "b *s"]:
        if rate is None:
            return x
        return functional.drop_path(self.make_rng("dropout"), x, rate)
