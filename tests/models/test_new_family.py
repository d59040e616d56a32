"""A family in a file of its own, with its own names: every trick asks the model."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_goldens import jit_once
from safetensors.numpy import load_file
from small_models import fill

from vit_jax_tricks import compress, export_weights, load_pretrained
from vit_jax_tricks.compress.quant.places import quantized_places
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import registry
from vit_jax_tricks.models.base import ImageModel
from vit_jax_tricks.models.blocks import BlockParts, block_parts
from vit_jax_tricks.models.layers.attention import Attention
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.models.registry import HALF, Entry, Preprocessing
from vit_jax_tricks.models.token_head import TokenHead
from vit_jax_tricks.optim.param_groups import factors
from vit_jax_tricks.param_names import GENERAL
from vit_jax_tricks.sharding import make_mesh, param_spec
from vit_jax_tricks.tasks.multi_scale import Rescaled, at_size
from vit_jax_tricks.teach.token_logits import token_logits


class Step(nn.Module):
    """x + look(x), then x + think(x)."""

    looks: int
    thoughts: int

    @nn.compact
    def __call__(self, x, train):
        if self.looks:
            x = x + Attention(self.looks, 4, name="look")(x, train)
        return x + Mlp(self.thoughts, name="think")(x, train)


class Mosaic(ImageModel):
    """Tiles with places -> steps -> mean of the tiles -> linear."""

    tile: int = 4
    channels: int = 16
    looks: tuple[int, ...] = (3, 2)
    thoughts: tuple[int, ...] = (12, 20)

    roles = GENERAL.instead(
        stem=("cut/.*", "places"), blocks=(r"steps_(\d+)/.*",), last=()
    ).also(
        no_decay=("places",),
        tensor=((r"look/qkv/kernel$", -2), (r"think/fc1/kernel$", -1)),
        in_float=("cut",),
    )

    @property
    def grid(self) -> tuple[int, int]:
        h, w, _ = self.image_shape
        return h // self.tile, w // self.tile

    @property
    def position_table(self) -> str:
        return "places"

    def check(self) -> None:
        if self.image_shape[0] % self.tile:
            raise UserError(f"img_size={self.img_size} cuts a tile.")

    def blocks(self) -> list[BlockParts]:
        sizes = zip(self.looks, self.thoughts, strict=True)
        return [
            block_parts(
                f"steps_{i}",
                {"num_heads": looks, "mlp_hidden": thoughts},
                attention="look/proj",
                mlp="think/fc2",
            )
            for i, (looks, thoughts) in enumerate(sizes)
        ]

    def unprunable(self) -> dict[str, str]:
        return {}

    def with_units(self, units: Any) -> Any:
        names = [block.path for block in self.blocks()]
        fields = {"heads": "looks", "hidden": "thoughts"}
        counts = {
            fields[kind]: tuple(each.get(name, 0) for name in names)
            for kind, each in units.items()
        }
        return self.clone(**counts)

    @property
    def width(self) -> int:
        return self.channels

    def fixed_width(self) -> None:
        return None

    def with_width(self, width: int) -> Any:
        return self.clone(channels=width)

    def token_head(self) -> TokenHead:
        return TokenHead.at_each_place(self.grid, exact=True)

    @nn.compact
    def __call__(self, images, train=False):
        t = self.tile
        x = nn.Conv(self.channels, (t, t), (t, t), name="cut")(images)
        x = x.reshape(len(x), -1, self.channels)
        x = x + self.table("places", (1, x.shape[1], self.channels))
        for i, sizes in enumerate(zip(self.looks, self.thoughts, strict=True)):
            x = Step(*sizes, name=f"steps_{i}")(x, train)
        features = x.mean(1)
        logits = nn.Dense(self.num_classes, name="head")(features)
        return logits, {"tokens": x, "features": features}


@pytest.fixture(scope="module")
def mosaic():
    model = Mosaic(img_size=16, num_classes=5)
    x = np.random.default_rng(0).normal(size=(3, *model.image_shape))
    x = jnp.asarray(x, jnp.float32)
    return model, fill(model, x), x


def test_it_can_be_pruned(mosaic):
    model, variables, x = mosaic
    groups = compress.find_groups(model)
    sizes = {name: group.size for name, group in groups.items()}
    heads, hidden = {"steps_0/heads": 3, "steps_1/heads": 2}, {"steps_0/hidden": 12}
    assert sizes == heads | hidden | {"steps_1/hidden": 20}
    plan = {"steps_0/heads": (0, 2), "steps_1/hidden": (1, 5, 7)}
    small = compress.pruned_model(model, groups, plan)
    assert (small.looks, small.thoughts) == ((2, 2), (12, 3))
    kept = compress.shrink(variables, groups, plan)
    shapes = jax.eval_shape(small.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, kept) == jax.tree.map(jnp.shape, shapes)


@pytest.mark.slow
def test_the_smaller_model_is_the_masked_one(mosaic):
    model, variables, x = mosaic
    got = compress.prune(
        model, variables, [(x, jnp.arange(3))], flops=0.6, width=0.5, multiple=1
    )
    assert got.macs <= 0.6 * got.full_macs
    assert got.model.channels == 8 == len(got.channels)
    groups = compress.find_groups(model)
    plan = {"steps_0/heads": (1,), "steps_1/heads": (), "steps_0/hidden": (2, 3)}
    small = compress.pruned_model(model, groups, plan)
    logits, _ = jit_once(small.apply)(compress.shrink(variables, groups, plan), x)

    def masked(variables, x):
        return compress.masked_apply(model, variables, x, groups, plan)[0]

    # Nothing but the bias of its projection is left of an attention without heads.
    bias = variables["params"]["steps_1"]["look"]["proj"]["bias"]
    cut = jax.tree.map(lambda leaf: leaf, variables)
    cut["params"]["steps_1"]["look"]["proj"]["bias"] = jnp.zeros_like(bias)
    np.testing.assert_allclose(logits, jit_once(masked)(cut, x), atol=1e-5)


def test_it_gives_token_labels(mosaic):
    """The mean over the places of exact token logits is the logits."""
    model, variables, x = mosaic
    head = model.token_head()
    logits, dense = jit_once(
        lambda variables, x: token_logits(model, variables, x, head)
    )(variables, x)
    assert dense.shape == (3, 4, 4, 5)
    np.testing.assert_allclose(dense.mean((1, 2)), logits, atol=1e-5)


def test_it_trains_at_several_sizes(mosaic):
    """Quantised too: its own table is resampled."""
    model, variables, x = mosaic
    quantized = compress.QuantizedModel(model, compress.standard_rules())
    with pytest.raises(UserError, match="cuts a tile"):
        at_size(model, model, 18)
    for applied in (model, quantized):
        other = at_size(model, applied, 8)
        assert isinstance(other, Rescaled)
        assert other.image_shape == (8, 8, 3)
        assert type(other.model) is type(applied)
    with pytest.raises(UserError, match="a quantised model has no token logits"):
        other.token_head()
    other = at_size(model, model, 8)
    logits, _ = jax.eval_shape(other.apply, variables, x[:, :8, :8])
    assert logits.shape == (3, 5)
    places = variables["params"]["places"].reshape(1, 4, 4, 16)
    want = jax.image.resize(places, (1, 2, 2, 16), "bicubic").reshape(1, 4, 16)
    got = other.fitted(variables)["params"]["places"]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_its_parameters_decay_by_their_own_names(mosaic):
    model, variables, _ = mosaic
    params = variables["params"]
    table = factors(params, layer_decay=0.5, roles=model.roles)
    rates = {name.partition("/")[0]: leaf.lr.item() for name, leaf in table.items()}
    layers = {"steps_0": 0.25, "steps_1": 0.5, "head": 1.0}
    assert rates == {"cut": 0.125, "places": 0.125} | layers
    assert not table["places"].decay
    assert table["cut/kernel"].decay
    assert table["steps_0/look/qkv/kernel"].hidden_matrix
    assert not table["cut/kernel"].hidden_matrix
    with pytest.raises(UserError, match=r"roles=model\.roles"):
        factors(params, layer_decay=0.5)
    with pytest.raises(UserError, match="does not know the layer of steps_0/"):
        factors({"blocks_0": params["head"], **params}, layer_decay=0.5)


def test_its_heads_are_split_over_a_mesh(mosaic):
    model, _, _ = mosaic
    mesh = make_mesh(data=4, tensor=2)
    path, shape = "params/steps_1/look/qkv/kernel", (16, 3, 2, 4)
    spec = param_spec(path, shape, mesh, model.roles)
    assert tuple(spec) == (None, None, "tensor", None)
    assert not any(param_spec(path, shape, mesh))


def test_its_stem_stays_in_float(mosaic):
    model, variables, x = mosaic
    found = quantized_places(model, variables, x, compress.standard_rules())
    parts = ("look/qkv", "look/proj", "think/fc1", "think/fc2")
    layers = [f"steps_{i}/{part}" for i in (0, 1) for part in parts]
    assert set(found) == {f"{n}/{end}" for n in layers for end in ("kernel", "input")}


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_its_weights_go_out_and_come_back(kind, mosaic, tmp_path, monkeypatch):
    model, variables, _ = mosaic
    entry = Entry(
        family=Mosaic,
        defaults={},
        preprocessing=Preprocessing(*HALF, 0.9),
        parameters=0,
        parameters_classes=5,
        source="this test",
        dialect="own",
        golden="none",
    )
    monkeypatch.setitem(registry._ENTRIES, "mosaic", entry)
    path = tmp_path / "weights.safetensors"
    export_weights(variables, "mosaic", path)
    if kind == "npz":
        arrays = load_file(path)
        np.savez(path := tmp_path / "weights.npz", **arrays)
    again, report = load_pretrained(model, path, verbose=False)
    assert (report.reset, report.unused) == ((), ())
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    other, report = load_pretrained(model.clone(num_classes=2), path, verbose=False)
    assert set(report.reset) == {"params/head/kernel", "params/head/bias"}
    assert other["params"]["head"]["bias"].shape == (2,)
