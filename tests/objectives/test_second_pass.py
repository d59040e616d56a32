"""Terms with a key, a step or a second pass of the model, such as R-Drop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.objectives import TERMS, Objective
from vit_jax_tricks.objectives.term import Entry, Readings
from vit_jax_tricks.random import step_key
from vit_jax_tricks.tasks import supervised


MODEL = create_model(
    "deit_tiny_distilled_patch16_224",
    3,
    img_size=16,
    patch_size=8,
    embed_dim=16,
    depth=1,
    num_heads=2,
    drop_rate=0.3,
)
CLASSIFICATION = {"name": "softmax", "smoothing": 0.1, "weight": 0.7}
R_DROP = {"classification": CLASSIFICATION, "r_drop": {"alpha": 1.5, "weight": 0.4}}
IMAGES = jax.random.normal(jax.random.key(2), (4, 16, 16, 3))
INPUTS = {"image": IMAGES, "label": jnp.eye(3)[jnp.array([0, 1, 2, 0])]}


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), IMAGES)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), shapes
    )


def key(name, step=3):
    return step_key(jax.random.key(9), name, step)


def loss_of(sections, key=key, model=MODEL):
    objective = Objective(sections)

    def loss(params):
        value, (metrics, _) = supervised.forward_loss(
            params, {}, INPUTS, (), key=key, model=model, objective=objective
        )
        return value, metrics

    return loss


def label_loss(logits, aux):
    """Half of each head's cross-entropy with smoothed labels."""
    smooth = 0.9 * INPUTS["label"] + 0.1 / 3
    heads = (logits, aux["logits_dist"])
    return -sum((smooth * jax.nn.log_softmax(z)).sum(-1) for z in heads) / 2


def passes(params, *keys):
    run = lambda key: MODEL.apply(  # noqa: E731
        {"params": params}, IMAGES, train=True, rngs={"dropout": key}
    )
    return [run(key) for key in keys]


def test_r_drop_equals_two_passes(params):
    """0.7 CE1 + 0.4 (CE2 + 1.5 symmetric KL), and its gradient, by hand."""

    def want(params):
        (one, aux), (two, aux_two) = passes(params, key("dropout"), key("loss.r_drop"))
        p, q = jax.nn.softmax(one), jax.nn.softmax(two)
        forth = (p * jnp.log(p / q)).sum(-1)
        back = (q * jnp.log(q / p)).sum(-1)
        term = label_loss(two, aux_two) + 1.5 * (forth + back) / 2
        return (0.7 * label_loss(one, aux) + 0.4 * term).mean(), forth.mean()

    value, grads = jax.jit(jax.value_and_grad(loss_of(R_DROP), has_aux=True))(params)
    hand, slopes = jax.jit(jax.value_and_grad(want, has_aux=True))(params)
    np.testing.assert_allclose(value[0], hand[0], rtol=1e-5)
    assert hand[1] > 1e-3
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_equal_passes_do_not_differ():
    """Without dropout only the label loss of both passes is left."""
    logits, aux = jnp.eye(4, 3), {"logits_dist": -jnp.eye(4, 3)}
    readings = Readings(
        logits=logits,
        aux=aux,
        labels=INPUTS["label"],
        key=key,
        forward=lambda images, key: (logits, aux),
    )
    _, terms = Objective(R_DROP)(readings)
    np.testing.assert_array_equal(terms["r_drop"], terms["classification"])
    assert losses.symmetric_kl(logits=logits, other_logits=logits).max() == 0


@dataclasses.dataclass(frozen=True)
class Noise:
    """A term that draws."""

    def __call__(self, *, key, logits):
        return jax.random.normal(key, logits.shape[:1])


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A term whose weight grows over the steps."""

    steps: int

    def __call__(self, *, logits, step):
        return jnp.minimum(step / self.steps, 1) * jnp.square(logits).sum(-1)


@pytest.fixture
def more(monkeypatch):
    monkeypatch.setitem(TERMS, "noise", Entry(Noise, ()))
    monkeypatch.setitem(TERMS, "other_noise", Entry(Noise, ()))
    monkeypatch.setitem(TERMS, "ramp", Entry(Ramp, ()))


@pytest.mark.usefixtures("more")
def test_each_term_draws_alone(params):
    def found(*names):
        sections = {"classification": CLASSIFICATION} | {name: {} for name in names}
        return jax.jit(loss_of(sections))(params)[1]

    one, both = found("noise"), found("other_noise", "noise")
    want = jax.random.normal(key("loss.noise"), (4,)).mean()
    np.testing.assert_allclose(one["loss_noise"], want, rtol=1e-6)
    assert both["loss_noise"] == one["loss_noise"]
    assert both["loss_other_noise"] != one["loss_noise"]
    assert both["loss_classification"] == one["loss_classification"]


@pytest.mark.usefixtures("more")
def test_a_term_may_follow_the_step():
    objective = Objective({"ramp": {"steps": 10}})
    logits, labels = jnp.ones((2, 3)), jnp.eye(3)[:2]
    for step, share in ((0, 0), (5, 0.5), (20, 1)):
        readings = Readings(
            logits=logits, aux={}, labels=labels, step=jnp.asarray(step, jnp.int32)
        )
        np.testing.assert_allclose(objective(readings)[0], 3 * share)


@pytest.mark.parametrize("name", ["r_drop", None])
def test_a_second_pass_runs_only_for_a_term_that_reads_it(name, params):
    calls = []

    class Counted:
        def apply(self, *args, **options):
            calls.append(1)
            return MODEL.apply(*args, **options)

    sections = {k: v for k, v in R_DROP.items() if k in ("classification", name)}
    asked = []

    def noted(stream):
        asked.append(stream)
        return key(stream)

    jax.eval_shape(loss_of(sections, noted, Counted()), params)
    assert len(calls) == (2 if name else 1)
    assert asked == ["dropout", *(["loss.r_drop"] if name else [])]


def test_every_term_names_what_it_reads():
    for entry in TERMS.values():
        assert entry.reads
        assert set(entry.reads.values()) <= {True, False}
    assert TERMS["r_drop"].reads == {
        "logits": False,
        "key": False,
        "forward": False,
        "label_loss": False,
        "mix_lam": True,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"config.loss.r_drop needs key, which this step does not give"),
        ({"key": key}, r"config.loss.r_drop needs forward, which this step"),
        (
            {"key": key, "forward": print, "aux": {"mix_lam": jnp.float32(0.5)}},
            r"MixToken mixes others in each; set config.model.mix_token=False",
        ),
    ],
)
def test_what_a_second_pass_needs(given, message):
    readings = Readings(
        **{"logits": jnp.eye(2, 3), "labels": jnp.eye(2, 3), "aux": {}, **given}
    )
    with pytest.raises(UserError, match=message):
        Objective(R_DROP)(readings)


def test_r_drop_is_refused_without_a_label_loss():
    with pytest.raises(UserError, match=r"needs config\.loss\.classification"):
        Objective({"r_drop": {"alpha": 1.0}})
    with pytest.raises(UserError, match="has no term; give one"):
        Objective({})
