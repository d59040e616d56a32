"""BEiT: ViT with relative position biases, under timm's field names."""

from typing import Any

import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import regularisers
from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.models.vit_front import VitFront


class Beit(VitFront):
    """A `VisionTransformer` under the field names of timm's `Beit`.

    q and v have biases; k does not. Additions: `norm_eps` by value, `scan` and `remat`.

    Source: Bao et al., 2021 (BEiT), arXiv:2106.08254; Peng et al., 2022 (BEiT v2),
    arXiv:2208.06366.
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    global_pool: str = "avg"
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    qkv_bias: bool = True
    mlp_ratio: float = 4.0
    swiglu_mlp: bool = False
    scale_mlp: bool = False
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    init_values: float | None = None
    use_abs_pos_emb: bool = True
    use_rel_pos_bias: bool = False
    use_shared_rel_pos_bias: bool = False
    norm_eps: float = 1e-6
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

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
