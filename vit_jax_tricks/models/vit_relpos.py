"""ViT with relative position biases instead of a position table, with timm's fields."""

from typing import Any

import jax.numpy as jnp

from vit_jax_tricks.models import checks, regularisers
from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.models.vit_front import VitFront


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

    img_size: int | tuple[int, int] = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    global_pool: str = "avg"
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_norm: bool = False
    init_values: float | None = 1e-6
    class_token: bool = False
    fc_norm: bool = False
    rel_pos_type: str = "mlp"
    rel_pos_dim: int | None = None
    shared_rel_pos: bool = False
    drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    weight_init: str = "reset"
    act_layer: str = "gelu"
    norm_eps: float = 1e-6
    block_fn: str = "pre_norm"
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    refuses = regularisers.PAIRS

    def vit(self, **more: Any) -> VisionTransformer:
        """The equivalent `VisionTransformer`; `more` holds its parent."""
        kind = REL_POS_TYPES[self.rel_pos_type]
        own = self.fields("rel_pos_type")
        return VisionTransformer(**own, pos_embed=kind, **more)

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        checks.check_choices(self, {"rel_pos_type": tuple(REL_POS_TYPES)})
        super().check()
