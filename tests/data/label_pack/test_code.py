"""The code of a record: eight bits per token score, everything else exact."""

import jax
import numpy as np
import pytest
from label_packs import fields

from vit_jax_tricks.data.label_pack.code import decode, encode
from vit_jax_tricks.errors import UserError


def dict_of(records):
    return {n: records[n] for n in records.dtype.names if n != "label"}


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 20.0, 1e4])
def test_scores_within_half_a_step(scale):
    given = fields(range(6))
    given["token_scores"] = given["token_scores"] * np.float32(scale)
    found = decode(dict_of(encode(**given)))
    spread = np.ptp(given["token_scores"], axis=(1, 2, 3))[:, None, None, None]
    error = np.abs(found["token_scores"] - given["token_scores"])
    assert (error <= spread / 510 * (1 + 1e-3) + 1e-30).all()


@pytest.mark.parametrize("spread", [1.0, 10.0, 20.0, 40.0])
def test_probabilities_within_the_stated_error(spread):
    """Of each class and of the better half, with 5 more classes at score 0."""
    given = fields(range(200), seed=3)
    low, high = given["token_scores"].min(), given["token_scores"].max()
    given["token_scores"] = (given["token_scores"] - low) * spread / (high - low)
    found = decode(dict_of(encode(**given)))["token_scores"]

    def probabilities(scores):
        others = np.zeros((*scores.shape[:-1], 5), np.float32)
        return np.asarray(jax.nn.softmax(np.concatenate([scores, others], -1)))

    error = probabilities(np.asarray(found)) - probabilities(given["token_scores"])
    most = np.tanh(spread / 255 / 4) + 1e-6
    assert np.abs(error).max() <= most
    assert np.abs(error).sum(-1).max() / 2 <= most


def test_the_rest_is_exact():
    given = fields([0, 65535], classes=65536)
    given["token_classes"][0, 0, 0, 0] = 65535
    records = encode(**given)
    found = decode(dict_of(records))
    np.testing.assert_array_equal(found["class_scores"], given["class_scores"])
    for name in ("class_classes", "token_classes"):
        np.testing.assert_array_equal(found[name], given[name])
    np.testing.assert_array_equal(records["label"], [0, 65535])


def test_jit_equals_eager():
    rows = dict_of(encode(**fields(range(3))))
    eager, jitted = decode(rows), jax.jit(decode)(rows)
    for name, value in eager.items():
        np.testing.assert_allclose(jitted[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["token_scores", "class_scores"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(name, value):
    given = fields(range(2))
    given[name].flat[3] = value
    with pytest.raises(UserError, match="not finite"):
        encode(**given)


def test_size_of_imagenet():
    """1,281,167 images of 14 x 14 patches, 5 classes each: under 4 GB, uncompressed."""
    given = fields(range(1), grid=(14, 14))
    assert 1_281_167 * encode(**given).dtype.itemsize < 3.82e9
