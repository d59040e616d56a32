"""Position encodings as pure functions, against references and slow loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden

from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.relative_bias import prefixed_index


RNG = np.random.default_rng(0)
GRID = (3, 4)
TOKENS = [(row, column) for row in range(3) for column in range(4)]


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def test_rotary_table_and_rotation_are_timm_s():
    _, arrays = load_golden("ops/position_tables")
    points = functional.rotary_coordinates((16, 16), reference=(16, 16))
    table = functional.rotary_table(functional.rotary_axial(points, 64))
    expected = arrays["eva02_tiny_rope_embed_16x16"]
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table, expected)
    q = arrays["rope_q"].transpose(0, 2, 1, 3)
    y = functional.rotate(q, expected[None, :32, None])
    expected = arrays["rope_q_rotated"].transpose(0, 2, 1, 3)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)


def test_coordinates_by_indexing_offset_and_reference():
    points = functional.rotary_coordinates(GRID)
    assert points.tolist() == [list(map(float, token)) for token in TOKENS]
    swapped = functional.rotary_coordinates(GRID, indexing="xy", offset=0.5)
    np.testing.assert_array_equal(swapped, points[:, ::-1] + 0.5)
    stretched = functional.rotary_coordinates(GRID, reference=(6, 2))
    np.testing.assert_allclose(stretched, points * [2, 0.5])


@pytest.mark.parametrize("half", [False, True])
def test_rotated_products_depend_on_the_offset_alone(half):
    points = functional.rotary_coordinates(GRID)
    table = functional.rotary_table(functional.rotary_axial(points, 8), half=half)
    q, k = (np.broadcast_to(normal(8), (1, 12, 1, 8)) for _ in range(2))
    rotated = [functional.rotate(x, table[None, :, None], half=half) for x in (q, k)]
    products = np.asarray(jnp.einsum("bngh,bmgh->nm", *rotated))
    found = {}
    for n, m in np.ndindex(12, 12):
        offset = tuple(np.subtract(TOKENS[n], TOKENS[m]))
        known = found.setdefault(offset, products[n, m])
        np.testing.assert_allclose(products[n, m], known, atol=1e-5)
    assert len({round(float(value), 3) for value in found.values()}) > 20


def test_half_rotation_is_the_other_order_of_features():
    angles = functional.rotary_axial(functional.rotary_coordinates(GRID), 8)
    x = normal(2, 12, 3, 8)
    order = np.arange(8).reshape(4, 2).T.ravel()  # pairs apart: 0 2 4 6 1 3 5 7
    plain = functional.rotate(x, functional.rotary_table(angles)[None, :, None])
    table = functional.rotary_table(angles, half=True)[None, :, None]
    y = functional.rotate(x[..., order], table, half=True)
    np.testing.assert_allclose(y, plain[..., order], atol=1e-6)


def test_prefix_tokens_do_not_turn():
    angles = functional.rotary_axial(functional.rotary_coordinates(GRID), 8)
    table = functional.rotary_table(angles, prefix=2)[None, :, None]
    x = normal(1, 14, 2, 8)
    y = functional.rotate(x, table)
    np.testing.assert_array_equal(y[:, :2], x[:, :2])
    inner = functional.rotary_table(angles)[None, :, None]
    np.testing.assert_array_equal(y[:, 2:], functional.rotate(x[:, 2:], inner))


def test_mixed_rotation_along_the_axes_is_axial():
    points = functional.rotary_coordinates(GRID, indexing="xy")
    bands = 100.0 ** -(np.arange(2) / 2)
    frequencies = np.zeros((2, 4), np.float32)
    frequencies[0, :2], frequencies[1, 2:] = bands, bands
    angles = functional.rotary_mixed(frequencies, points)
    axial = functional.rotary_axial(points, 8, temperature=100.0)
    np.testing.assert_allclose(angles, axial, atol=1e-6)


def test_mixed_tables_are_float32_in_float64_too(x64):
    """A float64 model has the bits of timm's `get_mixed_freqs`, always in float32."""
    points = functional.rotary_coordinates((9, 30), indexing="xy")
    rng = np.random.default_rng(0)
    frequencies = rng.standard_normal((2, 3, 2, 8))
    f = frequencies.astype(np.float32)[..., None, :]
    first, second = points[:, :1], points[:, 1:]
    expected = functional.rotary_table((f[0] * first + f[1] * second).reshape(-1, 8))

    def table(frequencies):
        return functional.rotary_table(functional.rotary_mixed(frequencies, points))

    for run in (table, jax.jit(table)):
        y = run(jnp.asarray(frequencies))
        assert y.dtype == jnp.float64
        np.testing.assert_array_equal(y.reshape(-1, 32), expected.astype(np.float64))
    coefficients = rng.standard_normal(y.shape)
    grad = jax.grad(lambda f: (table(f) * coefficients).sum())(jnp.asarray(frequencies))
    x, both = first.astype(np.float64), coefficients.reshape(3, 2, 270, 2, 8, 2).sum(-1)
    angles = (f[0] * first + f[1] * second).astype(np.float64)
    slope = both[..., 0, :] * np.cos(angles) - both[..., 1, :] * np.sin(angles)
    expected = (slope * x).sum(-2)
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(grad[0], expected, rtol=0, atol=atol)


def test_mixed_frequencies_start_along_two_perpendicular_directions():
    drawn = functional.mixed_frequencies(jax.random.key(0), (5, 3), 16)
    assert drawn.shape == (2, 5, 3, 8)
    magnitude = 10.0 ** -(np.arange(0, 16, 4) / 16)
    length = np.linalg.norm(drawn, axis=0)
    expected = np.broadcast_to([*magnitude] * 2, (5, 3, 8))
    np.testing.assert_allclose(length, expected, rtol=1e-5)
    products = (drawn[..., :4] * drawn[..., 4:]).sum(0)
    np.testing.assert_allclose(products, 0, atol=1e-6)
    turns = np.arctan2(drawn[1], drawn[0])[..., 0]
    assert len(np.unique(turns.round(4))) == 15


def test_dinov3_angles_by_a_loop():
    angles = functional.rotary_dinov3(GRID, 16, temperature=100.0)
    for n, (row, column) in enumerate(TOKENS):
        places = 2 * (row + 0.5) / 3 - 1, 2 * (column + 0.5) / 4 - 1
        expected = [
            2 * math.pi * place / 100 ** (k / 4) for place in places for k in range(4)
        ]
        np.testing.assert_allclose(angles[n], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", functional.SINCOS_FORMS)
def test_sines_and_cosines_by_a_loop(form):
    table = functional.sincos_2d(GRID, 16, form=form)
    assert table.dtype == np.float32
    steps = 3 if form == "big_vision" else 4
    bands = [10000.0 ** -(k / steps) for k in range(4)]
    for n, (y, x) in enumerate(TOKENS):
        sin_x, sin_y = ([math.sin(p * w) for w in bands] for p in (x, y))
        cos_x, cos_y = ([math.cos(p * w) for w in bands] for p in (x, y))
        expected = {
            "big_vision": sin_x + cos_x + sin_y + cos_y,
            "mae": sin_x + cos_x + sin_y + cos_y,
            "moco": sin_y + cos_y + sin_x + cos_x,
            "timm": sin_y + sin_x + cos_y + cos_x,
        }[form]
        np.testing.assert_allclose(table[n], expected, atol=1e-6)


def piecewise(x, ratio):
    """Equation 18 of the paper for one number."""
    alpha, beta, gamma = ratio, 2 * ratio, 8 * ratio
    if abs(x) <= alpha:
        return round(x)
    y = alpha + math.log(abs(x) / alpha) / math.log(gamma / alpha) * (beta - alpha)
    return int(math.copysign(min(round(y), beta), x))


def bucket(query, key, method, ratio):
    """The bucket of one pair of places."""
    r, c = np.subtract(query, key).tolist()
    bound = int(2 * ratio)
    if method == "product":
        side = 2 * bound + 1
        return (piecewise(r, ratio) + bound) * side + piecewise(c, ratio) + bound
    distance = {
        "euclidean": float(round(math.hypot(r, c))),
        "quant": r * r + c * c,
        "rows": r,
        "columns": c,
    }[method]
    return piecewise(distance, ratio) + bound


def test_piecewise_index_of_the_released_models():
    """Ratio 1.9: exact to 1, 2 for 2 and 3, 3 beyond."""
    assert functional.piecewise_index(np.arange(-13, 14), 1.9).tolist() == [
        *[-3] * 10, -2, -2, -1, 0, 1, 2, 2, *[3] * 10
    ]  # fmt: skip


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize(
    ("method", "ratio", "count"),
    [
        ("product", 1.9, 49),
        ("product", 0.7, 9),
        ("euclidean", 20.0, 81),
        ("euclidean", 1.2, 5),
        ("quant", 33.0, 133),
        ("quant", 2.0, 9),
        ("rows", 20.0, 81),
        ("columns", 1.0, 5),
    ],
)
def test_buckets_by_a_loop(method, ratio, count, prefix):
    buckets, found = functional.irpe_buckets(GRID, method, ratio, prefix=prefix)
    assert found == count + (prefix > 0)
    assert buckets.shape == (12 + prefix, 12 + prefix)
    assert (buckets[:prefix] == count).all()
    assert (buckets[:, :prefix] == count).all()
    for n, m in np.ndindex(12, 12):
        expected = bucket(TOKENS[n], TOKENS[m], method, ratio)
        assert buckets[n + prefix, m + prefix] == expected
    assert buckets.min() >= 0
    assert buckets.max() < found


@pytest.mark.parametrize("heads", [1, 3])
def test_irpe_terms_by_a_loop(heads):
    buckets, count = functional.irpe_buckets(GRID, "product", 1.9, prefix=1)
    x, weights = normal(2, 13, 3, 4), normal(2, 3, 13, 13)
    table, numbers = normal(heads, 4, count), normal(heads, count)
    values = normal(heads, count, 4)
    scores = functional.irpe_contextual(x, table, buckets)
    added = functional.irpe_values(weights, values, buckets)
    bias = functional.irpe_bias(numbers, buckets)
    assert bias.shape == (1, heads, 13, 13)
    for b, g, n in np.ndindex(2, 3, 13):
        f = g % heads
        expected = np.zeros(4)
        for m in range(13):
            i = buckets[n, m]
            score = x[b, n, g] @ table[f, :, i]
            np.testing.assert_allclose(scores[b, g, n, m], score, atol=1e-5)
            assert bias[0, f, n, m] == numbers[f, i]
            expected += weights[b, g, n, m] * values[f, i]
        np.testing.assert_allclose(added[b, n, g], expected, atol=1e-5)


def test_bias_tables_with_prefix_tokens():
    _, arrays = load_golden("ops/position_resize")
    expected = arrays["gen_relative_position_index_3x4_cls"]
    np.testing.assert_array_equal(prefixed_index(GRID, 1), expected)
    three = prefixed_index(GRID, 3)
    np.testing.assert_array_equal(three[2:, 2:], expected)
    assert (three[:3, 3:] == 35).all()
    assert (three[3:, :3] == 36).all()
    assert (three[:3, :3] == 37).all()


def test_gated_weights_leave_prefix_tokens_to_content():
    q, k, scores = normal(2, 5, 3, 4), normal(2, 5, 3, 4), normal(3, 3, 3)
    gate = np.zeros(3, np.float32)
    weights = functional.gated_position_weights(q, k, scores, gate, prefix=2)
    content = functional.attention_weights(q, k)
    position = jax.nn.softmax(scores, axis=-1)
    np.testing.assert_allclose(weights[:, :, :2], content[:, :, :2], atol=1e-6)
    np.testing.assert_allclose(
        weights[:, :, 2:, :2], content[:, :, 2:, :2] / 2, atol=1e-6
    )
    mixed = (content[:, :, 2:, 2:] + position[None]) / 2
    np.testing.assert_allclose(weights[:, :, 2:, 2:], mixed, atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
