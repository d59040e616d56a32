"""A stage: a sequence of blocks, optionally scanned."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.typing import Array, Float


class Stage(nn.Module):
    """Calls the blocks in turn on (x, drop path rate or None, train).

    `blocks` are factories of the modules `blocks_0`, ...; equal ones are the same
    object. With `scan`, block `first` and the equal blocks that follow it are traced
    once; their parameters and statistics are stacked under `blocks`, as by
    `stack_blocks`.
    """

    blocks: tuple[Callable[..., nn.Module], ...]
    scan: bool = False
    first: int = 0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b ..."], rates: tuple[float, ...], train: bool
    ) -> Float[Array, "b ..."]:
        drops = train and any(rates)
        i = 0
        while i < len(self.blocks):
            block, run = self.blocks[i], 1
            if self.scan and i == self.first:
                same = [other is block for other in self.blocks[i:]]
                run = [*same, False].index(False)
                scan = nn.scan(
                    lambda module, x, rate: (module(x, rate, train), None),
                    variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0},
                    split_rngs={"params": True, "dropout": True},
                    length=run,
                )
                some = jnp.asarray(rates[i : i + run], jnp.float32) if drops else None
                x = scan(block(name="blocks"), x, some)[0]
            else:
                x = block(name=f"blocks_{i}")(x, rates[i] if drops else None, train)
            i += run
        return x
