"""ViT with relative position biases instead of a position table, with timm's fields."""

from typing import Any

from vit_jax_tricks.models import checks, regularisers
from vit_jax_tricks.models.registry import HALF, Entry, Preprocessing, register
from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.models.vit_front import VitFront
from vit_jax_tricks.models.vit_variants import SIZES


REL_POS_TYPES = {"bias": "rel_bias", "mlp": "rel_mlp", "mlp_swin": "log_cpb"}


class VisionTransformerRelPos(VitFront):
    """A `VisionTransformer` under the field names of timm's `VisionTransformerRelPos`.

    `rel_pos_type` "bias" has a table in every block, or one shared table with
    `shared_rel_pos`; "mlp" and "mlp_swin" have an MLP of `rel_pos_dim` units over
    logarithmic offsets. Additions: `block_fn` by name, "pre_norm" or "post_norm";
    `act_layer` and `norm_eps` by value; `scan` and `remat`.

    Sources: Liu et al., 2021 (Swin), arXiv:2103.14030; Liu et al., 2021 (Swin V2),
    arXiv:2111.09883; Bao et al., 2021 (BEiT), arXiv:2106.08254.
    """

    qk_norm: bool = False
    init_values: float | None = 1e-6
    class_token: bool = False
    fc_norm: bool = False
    rel_pos_type: str = "mlp"
    rel_pos_dim: int | None = None
    shared_rel_pos: bool = False
    weight_init: str = "reset"
    act_layer: str = "gelu"
    block_fn: str = "pre_norm"

    key_names = "vit_jax_tricks.pretrained.relatives_rules:VIT_RELPOS"
    refuses = regularisers.PAIRS

    @property
    def activation(self) -> str:
        """The activation of the MLPs."""
        return self.act_layer

    def vit(self, **more: Any) -> VisionTransformer:
        """The equivalent `VisionTransformer`; `more` holds its parent."""
        kind = REL_POS_TYPES[self.rel_pos_type]
        own = self.fields("rel_pos_type")
        return VisionTransformer(**own, pos_embed=kind, **more)

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        checks.check_choices(self, {"rel_pos_type": tuple(REL_POS_TYPES)})
        super().check()


# Counts: timm 1.0.31. ImageNet-1k top-1 of timm's weights, where they exist.
_NORM = {"qkv_bias": False, "fc_norm": True}
_SHARED = {"qkv_bias": False, "shared_rel_pos": True}
_POST = {"qkv_bias": False, "block_fn": "post_norm"}
_CLASS = {"qkv_bias": False, "class_token": True}
_PLUS = {"embed_dim": 896, "num_heads": 14}
NAMES: dict[str, tuple[int, float | None, dict[str, Any]]] = {
    "vit_relpos_small_patch16_224": (21_983_920, 81.476, _NORM),
    "vit_relpos_medium_patch16_224": (38_747_208, 82.462, _NORM),
    "vit_relpos_base_patch16_224": (86_429_560, 82.482, _NORM),
    "vit_srelpos_small_patch16_224": (
        21_973_486,
        81.108,
        _SHARED | {"rel_pos_dim": 384},
    ),
    "vit_srelpos_medium_patch16_224": (
        38_735_856,
        82.256,
        _SHARED | {"rel_pos_dim": 512},
    ),
    "vit_relpos_medium_patch16_cls_224": (
        38_764_616,
        82.558,
        _CLASS | {"rel_pos_dim": 256, "global_pool": "token"},
    ),
    "vit_relpos_base_patch16_cls_224": (
        86_430_328,
        None,
        _CLASS | {"global_pool": "token"},
    ),
    "vit_relpos_base_patch16_clsgap_224": (
        86_430_328,
        82.758,
        _CLASS | {"fc_norm": True},
    ),
    "vit_relpos_small_patch16_rpn_224": (21_974_704, None, _POST),
    "vit_relpos_medium_patch16_rpn_224": (38_734_920, 82.314, _POST),
    "vit_relpos_base_patch16_rpn_224": (86_411_128, None, _POST),
    "vit_relpos_base_patch16_plus_240": (117_380_880, None, _PLUS),
    "vit_relpos_base_patch32_plus_rpn_256": (
        119_423_760,
        79.508,
        _PLUS | {"block_fn": "post_norm"},
    ),
}

for _name, (_count, _top1, _fields) in NAMES.items():
    _, _, _size, _patch, *_rest = _name.split("_")
    _golden = "models_small/small_vit_relpos_mlp"
    if _name == "vit_relpos_small_patch16_224":
        _golden = "models_full/timm_vit_relpos_small_patch16_224"
    register(
        _name,
        Entry(
            family=VisionTransformerRelPos,
            defaults={
                **SIZES[_size],
                "img_size": int(_rest[-1]),
                "patch_size": int(_patch.removeprefix("patch")),
                **_fields,
            },
            preprocessing=Preprocessing(*HALF, 0.9),
            parameters=_count,
            parameters_classes=1000,
            source="timm 1.0.31",
            dialect="timm",
            golden=_golden,
            top1=_top1,
        ),
    )
