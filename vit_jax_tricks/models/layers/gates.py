"""Gates in the optional collection "gates": which part of a model takes part, as data.

A layer looks in its own scope for its gates and multiplies what they switch. A gate is
an array for all images, or has an additional leading axis for the images:

* `heads` [g] in an attention layer: the output of each head, before the projection;
* `hidden` [m] in an MLP: each hidden unit, before the last layer;
* `width` [d] in a model and in each block: each channel of the residual stream. The
  embedded tokens and the branches of the block are multiplied by it, and norms take
  their statistics over the open channels alone;
* `depth` [] in a block: its branches, so that 0 skips the block.

1 is open and 0 closed; what is closed has exactly zero gradients. A gate that is absent
is open and costs nothing. Blocks stacked by scan have stacked gates, with the blocks on
the first axis. `models.gates` makes the collection.

Source: the sliced weights of Chen et al., 2021 (AutoFormer), arXiv:2107.00651, as
products, so that one compiled program serves every sub-network.
"""

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.checks import given
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Float


GATES = "gates"


def find(module: nn.Module, name: str, *shape: int) -> Float[Array, "..."] | None:
    """The gate of that name in the module's scope, or None.

    If the collection is mutable, an absent gate is declared open; that is how
    `models.gates` finds them all. Initialisation declares none.

    Raises: UserError for a gate of another shape.
    """
    if not module.has_variable(GATES, name):
        if not module.is_mutable_collection(GATES) or module.is_initializing():
            return None
        module.put_variable(GATES, name, jnp.ones(shape, jnp.float32))
    gate = module.get_variable(GATES, name)
    units = gate.shape[gate.ndim - len(shape) :]
    if units != shape or gate.ndim - len(shape) not in (0, 1):
        path = "/".join((*module.path, name))
        raise UserError(
            f"gates: {path} is {given(gate)}; expected the shape {list(shape)}, or one "
            "for each image with the images on the first axis."
        )
    return gate
