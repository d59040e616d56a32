"""Writes tests/golden/features/timm.npz: feature maps of small timm models.

python tests/golden/make_features.py, with torch 2.13 and timm 1.0.31. Maps of
`forward_intermediates` in float64, weights by name as in models_small, for models of
that folder and for some more. Of each map [h, w, d] of the first image the product
with a fixed vector is kept, [h, w]: `CASE/plain/LEVEL`; `CASE/norm/LEVEL` with
norm=True, if it differs; `CASE/prefix/LEVEL` for the prefix tokens, [r]. The manifest
has timm's `feature_info` of each case, and the levels that `indices` select.
"""

import functools
import json
import re

import numpy as np
import torch
from make_timm import GOLDEN, base_normal, synthesise, timm
from timm.models import convit, maxxvit, volo
from timm.models._features import feature_take_indices


SMALL = {"num_classes": 10, "img_size": 32, "patch_size": 8, "embed_dim": 32}
SMALL |= {"depth": 3, "num_heads": 4}
# Of tests/golden/models_small, whose manifests name the call.
STORED = [
    "small_cait",
    "small_coatnet_bn",
    "small_coatnet_paper",
    "small_coatnet_rw0",
    "small_coatnext",
    "small_deit3",
    "small_deit_distilled",
    "small_eva_rope",
    "small_swin",
    "small_swinv2",
    "small_timm_convit",
    "small_vit",
    "small_vit_gap_fcnorm",
    "small_vit_layerscale",
    "small_vit_map_head",
    "small_vit_nocls",
    "small_vit_prenorm_quickgelu",
    "small_vit_reg4_noembedcls",
    "small_vit_relpos_bias",
    "small_vit_relpos_mlp",
    "small_volo",
    "small_volo_avg",
]
# Case: name, options that both programs take.
MORE = {
    "beit": ("beit_base_patch16_224", SMALL),
    "rope_mixed": ("vit_small_patch16_rope_mixed_224", SMALL),
    "dinov3": ("vit_small_patch16_dinov3_qkvb", SMALL),
    "vit_wide": ("vit_tiny_patch16_224", {**SMALL, "img_size": [16, 40]}),
    "swin_wide": (
        "swin_tiny_patch4_window7_224",
        {
            "num_classes": 10,
            "img_size": [32, 64],
            "embed_dim": 16,
            "depths": [1, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
    ),
    "coatnet_wide": (
        "coatnet_0_224",
        {
            "num_classes": 10,
            "img_size": [64, 96],
            "embed_dim": [16, 16, 32, 32],
            "depths": [1] * 4,
        },
    ),
}
INDICES = [None, 1, 2, [0], [-1], [0, -1], [-2, -1]]
EPS = functools.partial(timm.layers.LayerNorm, eps=1e-6)
CLASSES = {
    "VOLO": volo.VOLO,
    "ConVit": functools.partial(convit.ConVit, norm_layer=EPS),
}


def stored(case):
    """A model of models_small with its weights, and its manifest."""
    with np.load(GOLDEN / f"models_small/{case}.npz") as file:
        manifest = json.loads(str(file["manifest"]))
    call, kwargs = manifest["reference"]["call"], manifest["kwargs"]
    if name := re.match(r"timm\.create_model\('(\w+)'", call):
        model = timm.create_model(name[1], **kwargs)
    elif call.startswith("MaxxVit("):
        cfg = {**kwargs.pop("cfg")}
        cfg["conv_cfg"] = maxxvit.MaxxVitConvCfg(**cfg["conv_cfg"])
        cfg["transformer_cfg"] = maxxvit.MaxxVitTransformerCfg(**cfg["transformer_cfg"])
        model = maxxvit.MaxxVit(maxxvit.MaxxVitCfg(**cfg), **kwargs)
    else:
        model = CLASSES[re.search(r"(\w+)\(", call)[1]](**kwargs)
    state = model.state_dict()
    assert list(state) == [row[0] for row in manifest["state"]]
    for key, shape, _, kind, gain, offset, _ in manifest["state"]:
        if kind != "keep":
            w = base_normal(key, shape)
            w = np.abs(w) if kind == "absnormal" else w
            w = w * np.float32(gain) + np.float32(offset)
            state[key] = torch.tensor(w)
    model.load_state_dict(state)
    return model, {key: manifest[key] for key in ("input_shape", "input_name")}


def made(case):
    """A model of `MORE`, and its manifest."""
    name, kwargs = MORE[case]
    fitting = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    model = timm.create_model(name, **fitting)
    rows, size = synthesise(model), kwargs["img_size"]
    size = [size, size] if isinstance(size, int) else size
    manifest = {"name": name, "kwargs": kwargs, "state": rows}
    return model, manifest | {"input_shape": [1, 3, *size], "input_name": case}


def product(x):
    """The product of the channels, which are last, with a fixed vector."""
    d = x.shape[-1]
    probe = base_normal("probe:features", [d]).astype(np.float64) / d**0.5
    return x[0].numpy() @ probe


def maps(model, x, case):
    """Products by name, after checks that timm's options agree with one another."""
    arrays, plain = {}, ()
    run = model.forward_intermediates
    for norm in (False, True):
        _, levels = run(x, norm=norm)
        only = run(x, norm=norm, stop_early=True, intermediates_only=True)
        assert all(map(torch.equal, levels, only))
        kind = "norm" if norm else "plain"
        for i, y in enumerate(levels):
            if not (norm and torch.equal(y, plain[i])):
                arrays[f"{case}/{kind}/{i}"] = product(y.permute(0, 2, 3, 1))
            if i < len(levels) - 1:
                part = run(x, indices=[i], stop_early=True, intermediates_only=True)
                assert norm or torch.equal(part[0], y)
        plain = levels
    if getattr(model, "num_prefix_tokens", 0) and "return_prefix_tokens" in (
        run.__code__.co_varnames
    ):
        for i, (_, prefix) in enumerate(
            run(x, return_prefix_tokens=True, intermediates_only=True)
        ):
            arrays[f"{case}/prefix/{i}"] = product(prefix)
    return arrays


def main():
    timm.layers.set_fused_attn(False)
    cases, arrays = {}, {}
    for case in [*STORED, *MORE]:
        model, manifest = made(case) if case in MORE else stored(case)
        model = model.double().eval()
        if hasattr(getattr(model, "rope", None), "periods"):
            model.rope.float()  # as timm computes the table of DINOv3's angles
        x = base_normal(f"input:{manifest['input_name']}", manifest["input_shape"])
        with torch.no_grad():
            own = maps(model, torch.tensor(x[:1]).double(), case)
        info = model.feature_info
        manifest["feature_info"] = [
            [level["module"], level["num_chs"], level["reduction"]] for level in info
        ]
        count = sum(key.startswith(f"{case}/plain/") for key in own)
        assert count == len(info)
        manifest["indices"] = [
            [given, feature_take_indices(count, given)[0]]
            for given in INDICES
            if not (isinstance(given, int) and given > count)
        ]
        cases[case] = manifest
        arrays |= own
        print(case, manifest["feature_info"])
    # What `features_only` says of whole models, without their weights.
    whole = {}
    for name, indices in {
        "deit_small_patch16_224": (2, 5, 8, 11),
        "swin_tiny_patch4_window7_224": (0, 1, 2, 3),
        "coatnet_0_224": (0, 1, 2, 3, 4),
        "volo_d1_224": (0, 1),
        "cait_xxs24_224": (11, 23),
        "convit_tiny": (5, 11),
        "eva02_tiny_patch14_224": (3, 7, 11),
    }.items():
        with torch.device("meta"):
            model = timm.create_model(name, features_only=True, out_indices=indices)
        info = model.feature_info
        whole[name] = {
            "indices": indices,
            "modules": info.module_name(),
            "channels": info.channels(),
            "reductions": info.reduction(),
        }
        print(name, whole[name])
    manifest = {
        "reference": {
            "package": "timm",
            "version": timm.__version__,
            "license": "Apache-2.0",
            "call": "forward_intermediates(x, norm=False / True)",
        },
        "torch": torch.__version__,
        "cases": cases,
        "features_only": whole,
    }
    path = GOLDEN / "features/timm.npz"
    np.savez_compressed(path, manifest=json.dumps(manifest), **arrays)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
