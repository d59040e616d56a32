"""Reference files of VOLO. Those of rarer options: tests/golden/make_timm.py."""

from model_goldens import Case


# The network's parts are stages of blocks, or downsamplings.
MODULES = {
    f"network.{part}.{block}": f"network_{part}/blocks_{block}"
    for part in range(5)
    for block in range(2)
}


def _case(golden: str, name: str) -> Case:
    return Case(golden, name, modules=MODULES)


SMALL = [
    _case("models_small/small_volo", "volo_d1_224"),
    _case("models_small/small_volo_avg", "volo_d1_224"),
    _case("models_small/small_volo_plain", "volo_d1_224"),
]
FULL = [_case("models_full/timm_volo_d1_224", "volo_d1_224")]
