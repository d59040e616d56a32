"""Writes reference files of small timm models: CoAtNet and VOLO with rarer options.

python tests/golden/make_timm.py, with torch 2.13 and timm 1.0.31. The same weights by
name, arrays and manifest as in the other files of models_small.
"""

import copy
import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch


# torchvision's Python parts without its compiled operators.
for operator in ("nms", "qnms"):
    schema = "(Tensor dets, Tensor scores, float threshold) -> Tensor"
    torch.library.define(f"torchvision::{operator}", schema)

import timm
from timm.layers import Mlp, set_fused_attn
from timm.models import maxxvit, volo
from torch.utils.flop_counter import FlopCounterMode


sys.path.insert(0, str(Path(__file__).parents[1]))
from goldens import GOLDEN, base_normal


FOLDER = GOLDEN / "models_small"
TABLES = ("pos_embed", "cls_token", "relative_position_bias_table")
CFG = {
    "embed_dim": [16, 32, 32, 64],
    "depths": [1, 2, 2, 1],
    "block_type": ["C", "C", "T", "T"],
    "stem_width": [8, 16],
}
NARROW = {"dim_head": 16}
COATNET = {
    # ConvNeXt blocks, the stride in the convolution, LayerScale in both kinds.
    "small_coatnext": {
        **CFG,
        "conv_cfg": {"block_type": "convnext", "init_values": 0.5},
        "transformer_cfg": {**NARROW, "expand_first": False, "init_values": 0.5},
        "weight_init": "normal",
    },
    # ConvNeXt blocks after pooling, no LayerScale, no position bias.
    "small_coatnext_pool": {
        **CFG,
        "conv_cfg": {
            "block_type": "convnext",
            "stride_mode": "pool",
            "downsample_pool_type": "max2",
            "output_bias": False,
            "init_values": None,
            "norm_layer": "batchnorm2d",
        },
        "transformer_cfg": {**NARROW, "rel_pos_type": "", "pool_type": "max2"},
    },
    # Two stages: batch norm and LayerScale in the transformer, early gate.
    "small_coatnet_bn": {
        **CFG,
        "embed_dim": [16, 32],
        "depths": [1, 2],
        "block_type": ["C", "T"],
        "conv_cfg": {"attn_early": True, "attn_act_layer": "relu"},
        "transformer_cfg": {
            **NARROW,
            "norm_layer": "batchnorm2d",
            "init_values": 0.5,
        },
    },
    # Mixed stages, other pools, grouped 5x5 convolutions, an MLP of positions.
    "small_coatnet_mixed": {
        **CFG,
        "depths": [2, 2, 3, 2],
        "block_type": ["C", "C", ["C", "T"], ["T", "C"]],
        "conv_cfg": {
            "stride_mode": "pool",
            "downsample_pool_type": "avg",
            "pool_type": "avg",
            "group_size": 8,
            "kernel_size": 5,
        },
        "transformer_cfg": {
            **NARROW,
            "pool_type": "avg",
            "rel_pos_type": "mlp",
            "rel_pos_dim": 16,
        },
    },
    # The constants of google-research/maxvit; the stride in the first 1x1.
    "small_coatnet_tf": {
        **CFG,
        "stem_bias": True,
        "head_hidden_size": 48,
        "conv_cfg": {
            "norm_eps": 1e-3,
            "act_layer": "gelu_tanh",
            "padding": "same",
            "stride_mode": "1x1",
            "pool_type": "avg",
        },
        "transformer_cfg": {
            **NARROW,
            "norm_eps": 1e-5,
            "act_layer": "gelu_tanh",
            "rel_pos_type": "bias_tf",
            "attn_bias": False,
        },
    },
}
STAGES = {
    "img_size": 64,
    "layers": [1, 1, 1],
    "embed_dims": [16, 32, 32],
    "num_heads": [2, 4, 4],
    "downsamples": [True, False, False],
    "outlook_attention": [True, False, False],
    "stem_hidden_dim": 8,
    "num_classes": 10,
}
VOLO = {
    # Odd maps, a second downsampling, the mean over all tokens, biases.
    "small_volo_avg": {
        **STAGES,
        "img_size": [72, 56],
        "layers": [2, 1, 1],
        "downsamples": [True, True, False],
        "mlp_ratio": [2.0, 3.0, 2.0],
        "outlook_attention": [True, True, False],
        "qkv_bias": True,
        "global_pool": "avg",
        "post_layers": ["ca"],
    },
    # Neither class token nor auxiliary head, patches of 4.
    "small_volo_plain": {
        **STAGES,
        "img_size": 32,
        "patch_size": 4,
        "global_pool": "avg",
        "post_layers": None,
        "use_aux_head": False,
    },
}


def coatnet(cfg):
    cfg = copy.deepcopy(cfg)
    kinds = {
        "conv_cfg": maxxvit.MaxxVitConvCfg,
        "transformer_cfg": maxxvit.MaxxVitTransformerCfg,
    }
    parts = {key: kind(**cfg[key]) for key, kind in kinds.items()}
    full = maxxvit.MaxxVitCfg(**{**cfg, **parts})
    size = 16 * len(full.depths)
    kwargs = {"img_size": size, "num_classes": 10}
    model = maxxvit.MaxxVit(full, **kwargs)
    return model, {"cfg": dataclasses.asdict(full), **kwargs}, size


def rule(key, shape):
    """kind, gain and offset of a state entry."""
    end = key.split(".")[-1]
    if not shape:
        return "keep", 0.0, 0.0
    if end == "running_mean":
        return "normal", 0.1, 0.0
    if end == "running_var":
        return "absnormal", 0.1, 1.0
    if end in TABLES:
        return "normal", 0.2, 0.0
    if len(shape) == 1:
        return "normal", 0.1, float(end == "weight")
    return "normal", 1 / math.sqrt(math.prod(shape[1:])), 0.0


def synthesise(model):
    """Fills the state by name; returns its rows."""
    state, rows = model.state_dict(), []
    params = dict(model.named_parameters())
    for key, value in state.items():
        shape = list(value.shape)
        kind, gain, offset = rule(key, shape)
        role = "param" if key in params else "buffer"
        dtype = str(value.dtype).removeprefix("torch.")
        rows.append([key, shape, dtype, kind, gain, offset, role])
        if kind != "keep":
            w = base_normal(key, shape)
            w = np.abs(w) if kind == "absnormal" else w
            w = w * np.float32(gain) + np.float32(offset)
            state[key] = torch.tensor(w)
    model.load_state_dict(state)
    return rows


def traced(model, names, head, x):
    """Logits, the classifier's input and the outputs of modules."""
    outputs, features = {}, []
    modules = dict(model.named_modules())
    hooks = [
        modules[name].register_forward_hook(
            lambda _, __, out, name=name: outputs.update({name: out})
        )
        for name in names
    ]
    head = modules[head]
    hooks.append(head.register_forward_pre_hook(lambda _, a: features.append(a[0])))
    with torch.no_grad():
        logits = model(x)
    for hook in hooks:
        hook.remove()
    return logits, features[0], outputs


def tokens(out, channels_first):
    if out.ndim == 4 and channels_first:
        out = out.permute(0, 2, 3, 1)
    return out.reshape(out.shape[0], -1, out.shape[-1]).numpy()


def gradients(model, x, rows, name, shape):
    coef = torch.tensor(base_normal(f"coef:{name}", shape).astype(np.float64))
    (model(x) * coef).sum().backward()
    params, table = dict(model.named_parameters()), []
    for key, size, *_, role in rows:
        table.append([np.nan, np.nan])
        if role == "param":
            probe = base_normal(f"probe:{key}", size).astype(np.float64)
            grad = params[key].grad.numpy()
            table[-1] = [np.linalg.norm(grad), (grad * probe).sum()]
    return np.array(table)


def write(name, model, kwargs, size, call, names, head, channels_first):
    size = (size, size) if isinstance(size, int) else size
    rows = synthesise(model)
    shape = [2, 3, *size]
    x = torch.tensor(base_normal(f"input:{name}", shape))
    model.eval()
    logits, features, outputs = traced(model, names, head, x)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x[:1])
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        logits64 = double(x.double()).numpy()
    grads = gradients(double, x.double(), rows, name, logits.shape)
    first = [key for key in outputs if not key.startswith(("stem", "patch_embed"))]
    arrays = {f"block:{k}": tokens(outputs[k], channels_first) for k in first}
    for module in model.modules():  # dropout that no option turns off
        if isinstance(module, Mlp):
            module.drop1.p = 0.0
    model.train()
    with torch.no_grad():
        arrays["train_logits"] = model(x).numpy()
    for key, value in model.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            arrays[f"after_train:{key}"] = value.numpy()
    manifest = {
        "reference": {
            "package": "timm",
            "version": timm.__version__,
            "license": "Apache-2.0",
            "call": call,
        },
        "model": name,
        "kwargs": kwargs,
        "mode": "eval",
        "input_shape": shape,
        "input_layout": "NCHW",
        "input_name": name,
        "n_params_trainable": sum(p.numel() for p in model.parameters()),
        "state": rows,
        "trace_names": names,
        "output_shape": list(logits.shape),
        "macs_one_image": counter.get_total_flops() // 2,
        "train_note": "one train-mode forward, no dropout, and the statistics after it",
        "torch": torch.__version__,
    }
    arrays |= {"logits": logits.numpy(), "features": features.numpy()}
    arrays |= {"logits64": logits64, "grad_l2_and_probe": grads}
    path = FOLDER / f"{name}.npz"
    np.savez_compressed(path, manifest=json.dumps(manifest), **arrays)
    print(f"{path}: {path.stat().st_size} bytes")


def main():
    set_fused_attn(False)  # the fused kernel's products would not be counted
    for name, cfg in COATNET.items():
        model, kwargs, size = coatnet(cfg)
        blocks = [
            f"stages.{i}.blocks.{j}"
            for i, stage in enumerate(model.stages)
            for j in range(len(stage.blocks))
        ]
        call = f"MaxxVit(MaxxVitCfg(**cfg), img_size={size}, num_classes=10)"
        write(name, model, kwargs, size, call, ["stem", *blocks], "head.fc", True)
    for name, kwargs in VOLO.items():
        fitting = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
        model = volo.VOLO(**fitting)
        blocks = []
        for i, part in enumerate(model.network):
            inner = range(len(part)) if isinstance(part, torch.nn.Sequential) else None
            blocks += [f"network.{i}.{j}" for j in inner] if inner else [f"network.{i}"]
        blocks += [f"post_network.{i}" for i in range(len(model.post_network or ()))]
        call = "timm.models.volo.VOLO(**kwargs)"
        write(name, model, kwargs, kwargs["img_size"], call, blocks, "head", False)


if __name__ == "__main__":
    main()
