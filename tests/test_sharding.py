"""The mesh and its rules."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.sharding import (
    batch_divisor,
    constrain,
    make_mesh,
    param_spec,
    state_shardings,
)


def test_what_is_left_over():
    assert dict(make_mesh(fsdp=2).shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    assert batch_divisor(make_mesh(data=2, fsdp=2, tensor=2)) == 4


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1)])
def test_a_mesh_that_does_not_fit(sizes):
    with pytest.raises(UserError, match="8 device"):
        make_mesh(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("params/blocks_0/attn/qkv/kernel", (384, 3, 6, 64), ("fsdp", None, "tensor")),
        ("params/blocks_0/attn/qkv/kernel", (384, 3, 3, 64), ("fsdp", None, None)),
        ("opt_state/1/mu/blocks/attn/qkv/bias", (12, 3, 6, 64), (None, None, "tensor")),
        ("params/blocks/attn/proj/kernel", (12, 6, 64, 384), (None, "tensor", None)),
        ("params/blocks_0/mlp/fc1/bias", (1536,), ("tensor",)),
        ("params/layers_1/blocks_0/attn/q_bias", (6, 32), ("tensor", None)),
        ("params/norm/scale", (384,), (None,)),
        ("step", (), ()),
    ],
)
def test_rules(path, shape, spec):
    found = tuple(param_spec(path, shape, make_mesh(data=2, fsdp=2, tensor=2)))
    assert found[: len(spec)] == spec
    axes = [a for a in found if a]
    assert len(axes) == len(set(axes))


def test_one_axis_of_data_replicates_parameters():
    tree = {"blocks_0": {"attn": {"qkv": {"kernel": jnp.zeros((384, 3, 6, 64))}}}}
    (leaf,) = jax.tree.leaves(state_shardings(tree, make_mesh()))
    assert leaf.is_fully_replicated


def test_constrain_is_the_identity_without_a_mesh():
    x = jnp.ones((8, 4, 2))
    assert constrain(x) is x
    with jax.set_mesh(make_mesh(fsdp=2)):
        y = jax.jit(constrain)(x)
    assert y.sharding.spec == PartitionSpec(("data", "fsdp"))
