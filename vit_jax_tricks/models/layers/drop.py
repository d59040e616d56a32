"""Drop path and patch dropout as Flax modules, which supply the random key."""

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


class PatchDropout(nn.Module):
    """`functional.patch_dropout` in training; the first `prefix` tokens are kept."""

    rate: float
    prefix: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b m d"]:
        if not train or self.rate == 0:
            return x
        key = self.make_rng("dropout")
        return functional.patch_dropout(key, x, self.rate, prefix=self.prefix)
