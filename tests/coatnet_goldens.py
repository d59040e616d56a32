"""Reference files of CoAtNet. Those of rarer options: tests/golden/make_timm.py."""

from model_goldens import Case


SMALL = [
    Case("models_small/small_coatnet_bn", "coatnet_bn_0_rw_224"),
    Case("models_small/small_coatnet_paper", "coatnet_0_224"),
    Case("models_small/small_coatnet_rw0", "coatnet_0_rw_224"),
    Case("models_small/small_coatnet_rmlp", "coatnet_rmlp_1_rw_224"),
    Case("models_small/small_coatnet_mixed", "coatnet_nano_cc_224"),
    Case("models_small/small_coatnet_tf", "coatnet_0_224"),
    Case("models_small/small_coatnext", "coatnext_nano_rw_224"),
    Case("models_small/small_coatnext_pool", "coatnext_nano_rw_224"),
]
FULL = [
    Case(f"models_full/timm_{name}", name)
    for name in ("coatnet_0_224", "coatnet_0_rw_224", "coatnet_rmlp_1_rw_224")
]
