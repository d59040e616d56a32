"""What XLA makes of the backward pass on CPU."""

import re

import jax
import jax.numpy as jnp
import pytest

from vit_jax_tricks.models import create_model


def largest_fusion(depth: int, drop_path: float) -> int:
    """Inputs of the widest fused kernel of a gradient."""
    model = create_model(
        "deit_tiny_patch16_224",
        num_classes=10,
        img_size=32,
        depth=depth,
        drop_path_rate=drop_path,
    )
    images = jnp.ones((2, 32, 32, 3))
    key = jax.random.key(0)

    def loss(params):
        rngs = {"dropout": key}
        return model.apply(params, images, train=True, rngs=rngs)[0].mean()

    params = jax.eval_shape(model.init, key, images)
    text = jax.jit(jax.grad(loss)).lower(params).compile().as_text() or ""
    inputs = re.findall(r" fusion\(([^)]*)\)", text)
    assert len(inputs) > 10 * depth
    return max(line.count("%") for line in inputs)


@pytest.mark.slow
@pytest.mark.parametrize("drop_path", [0.0, 0.1])
def test_residual_gradients_are_not_recomputed_in_every_block(drop_path):
    assert largest_fusion(6, drop_path) <= largest_fusion(3, drop_path) + 2
