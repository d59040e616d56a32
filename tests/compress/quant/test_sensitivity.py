"""What one quantised place costs, by NumPy on the logits with that place alone."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_goldens import jit_once
from small_models import fill

from vit_jax_tricks.compress import Spec, calibrate, quantized_apply, standard_rules
from vit_jax_tricks.compress.quant.sensitivity import EVERYTHING, sensitivity
from vit_jax_tricks.models import create_model
from vit_jax_tricks.models.stacking import stack_blocks


def test_a_cost_is_that_of_its_place_alone():
    fields = dict(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2)
    model = create_model("vit_tiny_patch16_224", 3, **fields)
    images = jax.random.normal(jax.random.key(0), (6, 8, 8, 3))
    labels = jnp.arange(6) % 3
    variables = fill(model, images)
    four = Spec("int4_narrow")
    rules = ((r"blocks_0/mlp/.*", None), *standard_rules(four, None))
    ranges = calibrate(model, variables, [images], rules)
    assert len(ranges) == 2
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    found = {c.place: c for c in sensitivity(model, variables, batches, ranges, rules)}
    assert list(found) == [*ranges, EVERYTHING]

    def entropy(logits):
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -log_p[np.arange(6), labels].mean()

    plain = np.float64(jit_once(model.apply)(variables, images)[0])
    for place, cost in found.items():
        alone = ranges if place == EVERYTHING else {place: ranges[place]}
        only = [(re.escape(name), four) for name in alone] + [(".*", None)]
        apply = jit_once(partial(quantized_apply, model, rules=only))
        logits = np.float64(apply(variables, images, alone)[0])
        power, error = np.square(plain).sum(), np.square(logits - plain).sum()
        assert cost.sqnr == pytest.approx(10 * np.log10(power / error), abs=1e-2)
        assert cost.loss == pytest.approx(entropy(logits) - entropy(plain), abs=1e-5)
        assert cost.agreement == np.mean(logits.argmax(-1) == plain.argmax(-1))
        assert abs(cost.loss) > 1e-4


def test_stacked_blocks_are_one_place():
    fields = dict(img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2)
    model = create_model("vit_tiny_patch16_224", 3, **fields)
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    apart = fill(model, images)
    stacked = {"params": stack_blocks(apart["params"])}
    rules = standard_rules(Spec("int4_narrow"), None)
    found = []
    for one, variables in ((model, apart), (model.clone(scan=True), stacked)):
        ranges = calibrate(one, variables, [images], rules)
        pairs = ((images, jnp.arange(4) % 3) for _ in range(1))
        found.append(sensitivity(one, variables, pairs, ranges, rules))
    assert [cost.place for cost in found[1][:2]] == [
        "blocks/attn/proj/kernel",
        "blocks/attn/qkv/kernel",
    ]
    assert len(found[0]) == 2 * len(found[1]) - 1
    assert found[1][-1].sqnr == pytest.approx(found[0][-1].sqnr, abs=1e-3)
