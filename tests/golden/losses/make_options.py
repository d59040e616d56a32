"""Writes options.npz: options of the reference losses that the other files leave out.

python tests/golden/losses/make_options.py, with torch 2.13, timm 1.0.31 and torchvision
0.28. Inputs are float32 arrays by name; losses and gradients are computed in float64.
"""

import functools
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F


B, K = 6, 9
rng = np.random.default_rng(20)


def float32(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def main():
    # torchvision's Python parts without its compiled operators.
    for operator in ("nms", "qnms"):
        schema = "(Tensor dets, Tensor scores, float threshold) -> Tensor"
        torch.library.define(f"torchvision::{operator}", schema)

    from timm.loss import BinaryCrossEntropy
    from torchvision.ops.roi_align import _roi_align

    arrays = {
        "logits": 3 * float32(B, K),
        "labels": rng.integers(0, K, B),
        "multi_hot": (rng.random((B, K)) < 0.3).astype(np.float32),
        "weight": rng.random(K).astype(np.float32),
        "pos_weight": (1 + rng.random(K)).astype(np.float32),
        "teacher_logits": 3 * float32(B, K),
        "maps": float32(3, 5, 7, 4),
        # (top, left, bottom, right): one without area, one that reaches outside
        "boxes": np.asarray(
            [[0.3, 1.2, 4.6, 5.9], [2, 3, 2, 3.5], [-2, -1, 6.5, 9]], np.float32
        ),
    }
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
    double = {k: v.double() if v.is_floating_point() else v for k, v in tensors.items()}

    def gradient(name, loss):
        z = double["logits"].clone().requires_grad_(True)
        value = loss(z)
        (grad,) = torch.autograd.grad(value, z)
        arrays[f"loss:{name}"] = value.detach().numpy()
        arrays[f"grad:{name}"] = grad.numpy()

    weight, pos_weight = double["weight"], double["pos_weight"]
    cases = {
        "bce_weight": ("labels", dict(smoothing=0.1, weight=weight)),
        "bce_pos_weight": ("labels", dict(smoothing=0.0, pos_weight=pos_weight)),
        "bce_pos_weight_3_sum": (
            "multi_hot",
            dict(pos_weight=torch.tensor(3.0).double(), sum_classes=True),
        ),
        "bce_dense_smoothing": ("multi_hot", dict(smoothing=0.2, smooth_dense=True)),
        "bce_dense_threshold": (
            "multi_hot",
            dict(smoothing=0.2, smooth_dense=True, target_threshold=0.3, weight=weight),
        ),
    }
    for name, (kind, options) in cases.items():
        loss = BinaryCrossEntropy(**options)
        gradient(name, functools.partial(loss, target=double[kind]))

    def distillation(z, tau):  # as in timm's LogitDistillationTask
        pair = F.log_softmax(z / tau, -1), F.log_softmax(teacher / tau, -1)
        return F.kl_div(*pair, reduction="batchmean", log_target=True) * tau**2

    teacher = double["teacher_logits"]
    for tau in (1.0, 4.0):
        gradient(f"timm_kd_tau{tau:g}", functools.partial(distillation, tau=tau))

    maps = double["maps"].permute(0, 3, 1, 2)
    corners = double["boxes"][:, [1, 0, 3, 2]]
    boxes = torch.cat([torch.arange(3).double()[:, None], corners], 1)
    roi = torch.compiler.disable(_roi_align)
    for samples, aligned, size in (
        (-1, False, (3, 2)),
        (-1, True, (2, 4)),
        (2, False, (1, 1)),
        (3, True, (4, 5)),
    ):
        out = roi(maps, boxes, 1.0, *size, samples, aligned)
        name = f"roi:{samples}_{int(aligned)}_{size[0]}x{size[1]}"
        arrays[name] = out.permute(0, 2, 3, 1).numpy()

    manifest = {
        "reference": ["timm 1.0.31 (Apache-2.0)", "torchvision 0.28.0 (BSD-3-Clause)"],
        "model": "timm.loss.BinaryCrossEntropy, the kl_div of timm.task."
        "LogitDistillationTask, torchvision.ops.roi_align's Python form",
        "precision": "inputs float32; everything computed in float64",
        "torch": torch.__version__,
    }
    path = Path(__file__).with_name("options.npz")
    np.savez_compressed(path, manifest=json.dumps(manifest), **arrays)


if __name__ == "__main__":
    main()
