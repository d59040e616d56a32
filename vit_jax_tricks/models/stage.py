"""A stage: blocks that hold their parameters under one name."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from vit_jax_tricks.models.stack import Plan, run_stack
from vit_jax_tricks.typing import Array, Float


class Stage(nn.Module):
    """Optional `downsample`, then the blocks, run by `run_stack`.

    Its arguments and results are those of `run_stack`; `rates` are the drop path rates.
    """

    blocks: tuple[Callable[..., nn.Module], ...]
    rates: tuple[float, ...]
    plan: Plan
    first: int = 0
    offset: int = 0
    downsample: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b ..."], train: bool, carry: Any = None, **each: Any
    ) -> tuple[Float[Array, "b ..."], dict[str, Any]]:
        if self.downsample is not None:
            x = self.downsample(name="downsample")(x)
        return run_stack(
            self.blocks,
            x,
            self.rates,
            train,
            self.plan,
            first=self.first,
            offset=self.offset,
            each=each,
            carry=carry,
        )
