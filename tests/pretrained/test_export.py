"""Weights out: what went in comes out, in the reference's names and layouts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import vit_jax_tricks
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.registry import list_models, lookup
from vit_jax_tricks.pretrained import export_weights, load_pretrained
from vit_jax_tricks.pretrained.rules import key_names


def test_parallel_blocks_in_timm_s_names(tmp_path):
    name = "vit_small_patch16_18x2_224"
    model = vit_jax_tricks.create_model(
        name, 10, img_size=32, embed_dim=32, num_heads=4, depth=2
    )
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), shapes)
    path = tmp_path / "out.safetensors"
    export_weights(variables, name, path)
    keys = load_file(path).keys()
    assert {
        "blocks.1.attns.0.norm.weight",
        "blocks.1.attns.1.attn.qkv.weight",
        "blocks.1.attns.1.ls.gamma",
        "blocks.0.ffns.1.mlp.fc2.bias",
    } <= keys
    again, _ = load_pretrained(model, path)
    chex.assert_trees_all_equal(again, variables)


def test_a_parameter_without_a_name_is_refused(tmp_path):
    variables = {"params": {"blocks_0": {"router": {"kernel": np.zeros((2, 2))}}}}
    with pytest.raises(UserError, match="no key for params/blocks_0/router/kernel"):
        export_weights(variables, "deit_tiny_patch16_224", tmp_path / "x.safetensors")


def test_no_two_rules_of_a_dialect_share_a_name():
    for family in {lookup(name).family for name in list_models()}:
        for rules in key_names(family).dialects.values():
            assert len({rule.key for rule in rules}) == len(rules)
            assert len({rule.path for rule in rules}) == len(rules)
