"""Batch norm and its running statistics against PyTorch."""

import jax.numpy as jnp
import numpy as np
from goldens import load_golden

from vit_jax_tricks.models.layers.batch_norm import BatchNorm


def test_three_training_steps_and_an_evaluation():
    _, arrays = load_golden("ops/basics")
    x = jnp.asarray(arrays["bn_x"], jnp.float32).transpose(0, 2, 3, 1)
    variables = {
        "params": {
            "scale": jnp.asarray(arrays["bn_weight"], jnp.float32),
            "bias": jnp.asarray(arrays["bn_bias"], jnp.float32),
        },
        "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)},
    }
    norm = BatchNorm()
    for step in range(3):
        y, new = norm.apply(variables, x + step, train=True, mutable=["batch_stats"])
        variables |= new
        if step == 0:
            expected = arrays["bn_train_out_step0"].transpose(0, 2, 3, 1)
            np.testing.assert_allclose(y, expected, atol=2e-6)
    stats = variables["batch_stats"]
    np.testing.assert_allclose(stats["mean"], arrays["bn_running_mean_after3"], 1e-5)
    np.testing.assert_allclose(stats["var"], arrays["bn_running_var_after3"], 1e-5)
    y = norm.apply(variables, x, train=False)
    expected = arrays["bn_eval_out"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(y, expected, atol=2e-6)
