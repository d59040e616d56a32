"""The forward pass of ViT's relatives in plain NumPy, written from the equations.

For the options that no reference file has: one image, unrolled blocks, float64.
"""

import math
from typing import Any

import numpy as np


def erf_gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def norm(x: np.ndarray, p: dict, eps: float, kind: str = "layernorm") -> np.ndarray:
    if kind == "rmsnorm":
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * p["scale"]
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return x * p["scale"] + p["bias"]


def dense(x: np.ndarray, p: dict) -> np.ndarray:
    """Features last; the kernel's first axes contract."""
    d = x.shape[-1]
    y = x @ p["kernel"].reshape(d, -1)
    return y + (p["bias"].reshape(-1) if "bias" in p else 0)


def softmax(x: np.ndarray) -> np.ndarray:
    y = np.exp(x - x.max(-1, keepdims=True))
    return y / y.sum(-1, keepdims=True)


def rotated(x: np.ndarray, angles: np.ndarray, half: bool) -> np.ndarray:
    """Turns pairs of one head's features [n, h] by angles [n, h / 2]."""
    y = x.copy()
    for a in range(angles.shape[1]):
        i, j = (a, a + angles.shape[1]) if half else (2 * a, 2 * a + 1)
        cos, sin = np.cos(angles[:, a]), np.sin(angles[:, a])
        y[:, i] = x[:, i] * cos - x[:, j] * sin
        y[:, j] = x[:, j] * cos + x[:, i] * sin
    return y


def project(x: np.ndarray, p: dict, heads: int) -> list[np.ndarray]:
    """q, k and v [n, g, h] in any of the ways to hold their kernels."""
    n = len(x)
    if "qkv" in p:
        q, k, v = (y.reshape(n, heads, -1) for y in np.split(dense(x, p["qkv"]), 3, 1))
    else:
        q, k, v = (dense(x, p[f"{a}_proj"]).reshape(n, heads, -1) for a in "qkv")
    return [q + p.get("q_bias", 0), k, v + p.get("v_bias", 0)]


def attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    angles: np.ndarray | None = None,
    half: bool = False,
) -> np.ndarray:
    """[n, g, h]; `angles` [g, n, h / 2] of the tokens, 0 for those that do not turn."""
    out = np.zeros_like(v)
    for g in range(q.shape[1]):
        a, b = q[:, g], k[:, g]
        if angles is not None:
            a, b = rotated(a, angles[g], half), rotated(b, angles[g], half)
        out[:, g] = softmax(a @ b.T / math.sqrt(q.shape[2])) @ v[:, g]
    return out


def mlp(x: np.ndarray, p: dict, eps: float) -> np.ndarray:
    if "fc1_g" in p:
        y = silu(dense(x, p["fc1_g"])) * dense(x, p["fc1_x"])
    elif p["fc1"]["kernel"].shape[1] == 2 * p["fc2"]["kernel"].shape[0]:
        gate, y = np.split(dense(x, p["fc1"]), 2, 1)
        y = silu(gate) * y
    else:
        y = erf_gelu(dense(x, p["fc1"]))
    return dense(norm(y, p["norm"], eps) if "norm" in p else y, p["fc2"])


def block(x: np.ndarray, p: dict, heads: int, eps: float, **o: Any) -> np.ndarray:
    def attention(y: np.ndarray) -> np.ndarray:
        own = p["attn"]
        q, k, v = project(y, own, heads)
        z = attend(q, k, v, o.get("angles"), o.get("half", False))
        z = z.reshape(len(y), -1)
        return dense(norm(z, own["norm"], eps) if "norm" in own else z, own["proj"])

    gains = [p.get(f"ls{i}", {}).get("gamma", 1) for i in (1, 2)]
    if o.get("post_norm"):
        x = x + norm(attention(x), p["norm1"], eps)
        return x + norm(mlp(x, p["mlp"], eps), p["norm2"], eps)
    x = x + gains[0] * attention(norm(x, p["norm1"], eps))
    return x + gains[1] * mlp(norm(x, p["norm2"], eps), p["mlp"], eps)


def parallel_block(x: np.ndarray, p: dict, heads: int, eps: float) -> np.ndarray:
    """The block of vit_*_xp: RMS norms, one product in, qk norm, no gains."""
    n, d = x.shape
    y = dense(norm(x, p["in_norm"], eps, "rmsnorm"), p["in_proj"])
    m = y.shape[1] - 3 * d
    q, k, v = (z.reshape(n, heads, -1) for z in np.split(y[:, m:], 3, 1))
    q = norm(q, p["q_norm"], eps, "rmsnorm")
    k = norm(k, p["k_norm"], eps, "rmsnorm")
    hidden = erf_gelu(y[:, :m] + p["mlp_bias"])
    out = dense(attend(q, k, v).reshape(n, -1), p["attn_out_proj"])
    return x + out + dense(hidden, p["mlp_out_proj"])


def patches(image: np.ndarray, p: dict, size: int) -> np.ndarray:
    h, w, _ = image.shape
    kernel = p["proj"]["kernel"]
    rows = [
        np.einsum("pqc,pqcd->d", image[i : i + size, j : j + size], kernel)
        for i in range(0, h, size)
        for j in range(0, w, size)
    ]
    return np.stack(rows) + p["proj"].get("bias", 0)
