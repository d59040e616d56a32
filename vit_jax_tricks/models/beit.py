"""BEiT: ViT with relative position biases, under timm's field names."""

from typing import Any

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import regularisers
from vit_jax_tricks.models.registry import (
    HALF,
    IMAGENET,
    Entry,
    Preprocessing,
    register,
)
from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.models.vit_front import VitFront
from vit_jax_tricks.models.vit_variants import SIZES


class Beit(VitFront):
    """A `VisionTransformer` under the field names of timm's `Beit`.

    q and v have biases; k does not. Additions: `norm_eps` by value, `scan` and `remat`.

    Source: Bao et al., 2021 (BEiT), arXiv:2106.08254; Peng et al., 2022 (BEiT v2),
    arXiv:2208.06366.
    """

    swiglu_mlp: bool = False
    scale_mlp: bool = False
    pos_drop_rate: float = 0.0
    init_values: float | None = None
    use_abs_pos_emb: bool = True
    use_rel_pos_bias: bool = False
    use_shared_rel_pos_bias: bool = False

    key_names = "vit_jax_tricks.pretrained.relatives_rules:BEIT"
    stochastic = (*VitFront.stochastic, "pos_drop_rate")
    refuses = regularisers.PAIRS

    def vit(self, **more: Any) -> VisionTransformer:
        """The equivalent `VisionTransformer`; `more` holds its parent."""
        encodings = ["learn"] * self.use_abs_pos_emb
        if self.use_rel_pos_bias or self.use_shared_rel_pos_bias:
            encodings.append("rel_bias")
        own = self.fields(
            "swiglu_mlp",
            "scale_mlp",
            "use_abs_pos_emb",
            "use_rel_pos_bias",
            "use_shared_rel_pos_bias",
        )
        return VisionTransformer(
            **own,
            pos_embed="+".join(encodings) or "none",
            shared_rel_pos=self.use_shared_rel_pos_bias,
            mlp_layer="swiglu" if self.swiglu_mlp else "mlp",
            scale_mlp_norm=self.scale_mlp,
            qkv="fused_qv",
            weight_init="eva",
            **more,
        )

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        if self.use_rel_pos_bias and self.use_shared_rel_pos_bias:
            raise UserError(
                "use_rel_pos_bias=True and use_shared_rel_pos_bias=True are two "
                "biases; use one of them."
            )
        super().check()


# Parameters (timm 1.0.31); crop and ImageNet-1k top-1 of timm's default weights.
NAMES = {
    "beit_base_patch16_224": (86_530_984, 0.9, 85.238),
    "beit_base_patch16_384": (86_744_104, 1.0, 86.814),
    "beit_large_patch16_224": (304_430_568, 0.9, 87.486),
    "beit_large_patch16_384": (304_998_888, 1.0, 88.380),
    "beit_large_patch16_512": (305_674_728, 1.0, 88.576),
    "beitv2_base_patch16_224": (86_530_984, 0.9, 86.494),
    "beitv2_large_patch16_224": (304_430_568, 0.95, 88.406),
}

for _name, (_count, _crop, _top1) in NAMES.items():
    _family, _size, _, _image = _name.split("_")
    _first = _family == "beit" and _size == "base"
    register(
        _name,
        Entry(
            family=Beit,
            defaults={
                **SIZES[_size],
                "img_size": int(_image),
                "use_abs_pos_emb": False,
                "use_rel_pos_bias": True,
                "init_values": 0.1 if _first else 1e-5,
            },
            preprocessing=Preprocessing(
                *(HALF if _family == "beit" else IMAGENET), _crop
            ),
            parameters=_count,
            parameters_classes=1000,
            source="timm 1.0.31",
            dialect="timm",
            golden="models_small/small_vit_relpos_bias",
            top1=_top1,
        ),
    )
