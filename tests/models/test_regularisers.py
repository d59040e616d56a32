"""Every regulariser in every family: it acts in training alone, and by its own rule."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util
from model_goldens import jit_once
from small_models import apply, fill

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.flops import count_flops
from vit_jax_tricks.models import create_model, list_models
from vit_jax_tricks.models.registry import lookup


# Small models, one of each family and of the names that differ most.
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
STAGES = {"img_size": 32, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 2)}
MODELS = {
    "deit_tiny_patch16_224": TINY,
    "deit_tiny_distilled_patch16_224": TINY,
    "deit3_small_patch16_224": TINY,
    "vit_base_patch16_rpn_224": TINY,
    "vit_base_patch16_xp_224": TINY,
    "clip_vit_b16_image": TINY,
    "vit_base_patch16_siglip_224": TINY,
    "vit_relpos_small_patch16_224": TINY,
    "beit_base_patch16_224": TINY,
    "eva02_tiny_patch14_224": TINY,
    "cait_xxs24_224": {**TINY, "depth_token_only": 1},
    "convit_tiny": {**TINY, "embed_dim": 8, "local_up_to_layer": 1},
    "t2t_vit_14": {"img_size": 64, "embed_dim": 16, "depth": 2, "num_heads": 2},
    "lvvit_s": {**TINY, "p_emb": 1, "return_dense": False, "mix_token": False},
    "swin_tiny_patch4_window7_224": {**STAGES, "window_size": 4},
    "swinv2_tiny_window8_256": {**STAGES, "window_size": 4},
    "coatnet_0_224": {
        "img_size": 32,
        "embed_dim": (16, 32),
        "depths": (1, 2),
        "block_type": ("C", "T"),
        "stem_width": 8,
        "transformer_dim_head": 8,
        "transformer_rel_pos_drop": 0.0,
    },
    "volo_d1_224": {
        "img_size": 32,
        "stem_hidden_dim": 8,
        "layers": (1, 2),
        "embed_dims": (16, 32),
        "num_heads": (2, 2),
        "downsamples": (True, False),
        "outlook_attention": (True, False),
        "post_layers": ("ca",),
        "use_mix_token": False,
    },
}
RATES = ("drop_path_rate", "patch_drop_rate", "attn_drop_rate")
FIELDS = (*RATES, "init_values")
OTHER_NAMES = {
    "coatnet_0_224": {
        "attn_drop_rate": "transformer_attn_drop",
        "init_values": "transformer_init_values",
    }
}
LIGHT = ("deit_tiny_patch16_224", "patch_drop_rate")  # for the quick suite


def refused(name, field):
    """Whether the family has not the field, under any name."""
    other = OTHER_NAMES.get(name, {})
    return field not in other and field in getattr(lookup(name).family, "refuses", {})


def make(name, **fields):
    """A small model without regularisers but those given."""
    has = lookup(name).family.__dataclass_fields__
    none = dict.fromkeys((rate for rate in RATES if rate in has), 0.0)
    given = {OTHER_NAMES.get(name, {}).get(k, k): v for k, v in fields.items()}
    return create_model(name, 5, **{**none, **MODELS[name], **given})


@cache
def images(shape):
    return jax.random.normal(jax.random.key(1), (4, *shape))


@cache
def filled(model):
    """Variables far from zero."""
    return fill(model, images(model.image_shape))


@cache
def evaluation(model):
    """The program of a forward pass outside training."""
    given = filled(model), images(model.image_shape)
    return jax.make_jaxpr(partial(model.apply, train=False))(*given)


def usual(model):
    """Logits in training, of a model without regularisers."""
    given = filled(model), images(model.image_shape)
    return apply(model, *given, train=True, mutable=("batch_stats",))[0][0]


def gradients(model):
    """A function of variables and a key: of a loss in training, and the logits."""
    x = images(model.image_shape)

    def loss(params, state, key):
        (logits, _), _ = model.apply(
            {**state, "params": params},
            x,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return jax.nn.log_softmax(logits)[:, 0].sum(), logits

    program = jit_once(jax.grad(loss, has_aux=True))

    def run(variables, seed=0):
        state = {k: v for k, v in variables.items() if k != "params"}
        return program(variables["params"], state, jax.random.key(seed))

    return run


def cases(fields):
    """Each model with each field that it has; all but a light one are slow."""
    return [
        pytest.param(
            name, field, marks=() if (name, field) == LIGHT else pytest.mark.slow
        )
        for name in MODELS
        for field in fields
        if not refused(name, field)
    ]


@pytest.mark.parametrize(("name", "field"), cases(RATES))
def test_a_rate_acts_in_training_alone(name, field):
    plain, model = make(name), make(name, **{field: 0.5})
    run = gradients(model)
    (grads, first), (_, second) = (run(filled(plain), seed) for seed in (0, 1))
    chex.assert_tree_all_finite(grads)
    reached = [leaf.any() for leaf in jax.tree.leaves(jax.device_get(grads))]
    assert sum(reached) > 0.8 * len(reached)
    assert jnp.abs(first - usual(plain)).max() > 1e-4
    assert jnp.abs(first - second).max() > 1e-4

    given = filled(plain), images(model.image_shape)
    program = jax.make_jaxpr(partial(model.apply, train=False))(*given)
    assert str(program) == str(evaluation(plain))


@pytest.mark.parametrize(("name", "field"), cases(["patch_drop_rate"]))
def test_patch_dropout_shortens_the_sequence(name, field):
    models = make(name), make(name, **{field: 0.5})
    x, variables = images(models[0].image_shape), filled(models[0])

    def train(model, variables, x):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, x, train=True, rngs=rngs)[1]["tokens"]

    runs = [partial(train, model) for model in models]
    full, half = (jax.eval_shape(run, variables, x).shape[1] for run in runs)
    rows, columns = models[0].grid
    dropped = rows * columns // 2
    assert full - half == dropped > 0
    costs = [count_flops(run, variables, x).flops for run in runs]
    d, depth = MODELS[name]["embed_dim"], MODELS[name]["depth"]
    # A token costs a block at least its linear layers; the attention comes on top.
    linear = 2 * (4 + 2 * models[0].mlp_ratio) * d**2
    assert costs[0] - costs[1] > len(x) * dropped * depth * linear


BRANCHES = {  # two for each block, but for
    "vit_base_patch16_xp_224": 2,
    "cait_xxs24_224": 6,
    "swin_tiny_patch4_window7_224": 6,
    "swinv2_tiny_window8_256": 6,
    "volo_d1_224": 8,
}
POST_NORM = ("vit_base_patch16_rpn_224", "swinv2_tiny_window8_256")


@pytest.mark.parametrize(("name", "field"), cases(["init_values"]))
def test_layer_scale_opens_every_branch_a_little(name, field):
    model = make(name, **{field: 1e-5})
    x = images(model.image_shape)
    variables = jit_once(model.init)(jax.random.key(0), x)
    flat = traverse_util.flatten_dict(variables["params"])
    ends = ("norm1", "norm2") if name in POST_NORM else ("ls", "ls1", "ls2")
    last = "scale" if name in POST_NORM else "gamma"
    gains = {path for path in flat if path[-1] == last and path[-2] in ends}
    widths = {path: flat[path].shape for path in gains}
    assert len(gains) == BRANCHES.get(name, 4)
    for path in gains:
        chex.assert_trees_all_equal(flat[path], jnp.full_like(flat[path], 1e-5))
    chex.assert_tree_all_finite(gradients(model)(variables)[0])
    if name in POST_NORM or name == "cait_xxs24_224":
        return  # these have the gains without the field too
    plain = make(name, **{field: None})
    given = filled(plain)
    flat = traverse_util.flatten_dict(given["params"])
    ones = {path: jnp.ones(widths[path]) for path in gains}
    scaled = traverse_util.unflatten_dict(flat | ones)
    expected = apply(plain, given, x)[0]
    same = apply(model, {**given, "params": scaled}, x)[0]
    chex.assert_trees_all_close(same, expected, atol=1e-6)
    closed = traverse_util.unflatten_dict(flat | {p: 0 * g for p, g in ones.items()})
    other = apply(model, {**given, "params": closed}, x)[0]
    assert jnp.abs(other - expected).max() > 1e-3


@pytest.mark.parametrize("name", sorted({lookup(n).family.__name__ for n in MODELS}))
def test_no_field_is_unknown_to_a_family(name):
    """A family has each field or says why not."""
    first = next(n for n in list_models() if lookup(n).family.__name__ == name)
    for field in FIELDS:
        if field in lookup(first).family.__dataclass_fields__:
            continue
        with pytest.raises(UserError, match=f"{first} takes no {field}: ") as error:
            create_model(first, **{field: 0.1})
        assert "\n" not in str(error.value)


def test_every_family_is_here():
    assert {lookup(n).family for n in MODELS} == {
        lookup(n).family for n in list_models()
    }


def test_patch_dropout_needs_a_head_for_the_image_alone():
    with pytest.raises(
        UserError, match=r"patch_drop_rate=0\.1 needs return_dense=False"
    ):
        create_model("lvvit_s", patch_drop_rate=0.1)


@pytest.mark.parametrize(
    ("name", "fields", "value"),
    [
        ("deit_tiny_patch16_224", {}, 0.1),
        ("deit_tiny_patch16_224", {"depth": 19}, 1e-5),
        ("cait_s36_384", {}, 1e-6),
        ("swin_tiny_patch4_window7_224", {}, 0.1),
        ("swin_small_patch4_window7_224", {}, 1e-5),
        ("volo_d5_224", {}, 1e-6),
    ],
)
def test_layer_scale_by_depth(name, fields, value):
    assert create_model(name, init_values="depth", **fields).init_values == value


def test_another_word_than_depth_is_a_mistake():
    with pytest.raises(UserError, match="init_values='deep' is a str; it must be"):
        create_model("deit_tiny_patch16_224", init_values="deep")
