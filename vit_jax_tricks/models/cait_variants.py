"""Model names of the CaiT family, with sizes, preprocessing and published counts."""

from vit_jax_tricks.models.cait import CaiT
from vit_jax_tricks.models.registry import IMAGENET, Entry, Preprocessing, register


SIZES = {
    "xxs": {"embed_dim": 192, "num_heads": 4},
    "xs": {"embed_dim": 288, "num_heads": 6},
    "s": {"embed_dim": 384, "num_heads": 8},
    "m": {"embed_dim": 768, "num_heads": 16},
}
# Parameters (timm 1.0.31), initial LayerScale, published ImageNet-1k top-1 of the
# distilled models (arXiv:2103.17239, table 5).
CAIT = {
    "cait_xxs24_224": (11_956_264, 1e-5, 78.4),
    "cait_xxs24_384": (12_029_224, 1e-5, 80.9),
    "cait_xxs36_224": (17_299_720, 1e-5, 79.7),
    "cait_xxs36_384": (17_372_680, 1e-5, 82.2),
    "cait_xs24_384": (26_670_088, 1e-5, 84.1),
    "cait_s24_224": (46_916_200, 1e-5, 83.5),
    "cait_s24_384": (47_062_120, 1e-5, 85.1),
    "cait_s36_384": (68_366_632, 1e-6, 85.4),
    "cait_m36_384": (271_221_352, 1e-6, 86.1),
    "cait_m48_448": (356_460_520, 1e-6, 86.5),
}

for _name, (_parameters, _init_values, _top1) in CAIT.items():
    _, _size, _resolution = _name.split("_")
    _depth = _size.lstrip("xsm")
    register(
        _name,
        Entry(
            family=CaiT,
            defaults={
                **SIZES[_size.removesuffix(_depth)],
                "depth": int(_depth),
                "img_size": int(_resolution),
                "init_values": _init_values,
            },
            preprocessing=Preprocessing(*IMAGENET, 1.0),
            parameters=_parameters,
            parameters_classes=1000,
            source="timm 1.0.31",
            dialect="timm",
            golden="models_full/timm_cait_xxs24_224"
            if _name == "cait_xxs24_224"
            else "models_small/small_cait",
            top1=_top1,
        ),
    )
