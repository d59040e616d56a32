"""A hand-written ViT-S/16 training step to compare ours with.

It uses plain Flax Linen and optax: no mesh, no skipped steps, no configs. It shares no
code with the package.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax


MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


class Attention(nn.Module):
    """Multi-head self-attention with einsum."""

    heads: int = 6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, n, d = x.shape
        qkv = nn.Dense(3 * d)(x).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) * (d // self.heads) ** -0.5
        x = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(logits), v)
        return nn.Dense(d)(x.reshape(b, n, d))


class FlaxAttention(nn.Module):
    """The same with Flax's own layer."""

    heads: int = 6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.MultiHeadDotProductAttention(self.heads)(x)


class PlainViT(nn.Module):
    """ViT-S/16: class token, learned positions, pre-norm blocks, exact GELU."""

    classes: int = 1000
    width: int = 384
    depth: int = 12
    attention: type[nn.Module] = Attention

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = nn.Conv(self.width, (16, 16), (16, 16), padding="VALID")(images)
        x = x.reshape(len(x), -1, self.width)
        token = self.param("token", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
        normal = nn.initializers.normal(0.02)
        x = x + self.param("positions", normal, (1, *x.shape[1:]))
        for _ in range(self.depth):
            x = x + self.attention()(nn.LayerNorm()(x))
            y = nn.Dense(4 * self.width)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width)(nn.gelu(y, approximate=False))
        return nn.Dense(self.classes)(nn.LayerNorm()(x)[:, 0])


def make(*, attention: type[nn.Module] = Attention) -> tuple[Any, Callable]:
    """Returns the first state `(params, opt_state)` and a jitted step that donates it.

    The step maps (state, images uint8 [b, 224, 224, 3], labels int32 [b]) to (state,
    loss): AdamW, label smoothing 0.1.
    """
    model = PlainViT(attention=attention)
    optimizer = optax.adamw(1e-3, weight_decay=0.05)
    images = jnp.zeros((1, 224, 224, 3))
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    opt_state = jax.jit(optimizer.init)(params)

    def loss_fn(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        x = (images.astype(jnp.float32) / 255 - MEAN) / STD
        logits: Any = model.apply({"params": params}, x)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, model.classes), 0.1)
        return optax.softmax_cross_entropy(logits, targets).mean()

    def step(state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    return (params, opt_state), jax.jit(step, donate_argnums=0)
