"""The fields that a family says make a training step random are all of them."""

import jax
import jax.numpy as jnp
import pytest

from vit_jax_tricks import create_model, list_models
from vit_jax_tricks.models.registry import lookup


FIRST = {lookup(name).family: name for name in reversed(list_models())}
# Dropouts of a fixed rate, as in the reference: T2T-ViT's stem, and a position network.
FIXED = {"t2t_vit_10", "vit_relpos_base_patch16_224"}
NAMES = {*FIRST.values(), "coatnet_rmlp_nano_rw_224"} - FIXED


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NAMES))
def test_without_them_a_step_draws_nothing(name):
    family = lookup(name).family
    fields = family.__dataclass_fields__
    off = {field: type(fields[field].default)() for field in family.stochastic}
    model = create_model(name, scan=True, **off)
    images = jnp.zeros((2, *model.image_shape))

    def step(key):
        variables = model.init(key, images)
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    jax.eval_shape(step, jax.random.key(0))  # without a key for "dropout"
