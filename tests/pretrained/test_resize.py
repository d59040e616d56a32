"""Resampling of position tables against timm and the official repositories."""

import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.pretrained.resize import resize_positions


@pytest.mark.parametrize(
    ("method", "options", "atol"),
    [
        ("timm_bicubic_antialias", {}, 2e-6),
        ("interp_bicubic_aa0", {"plain": True}, 4e-6),
        ("interp_bilinear_aa0", {"bilinear": True}, 2e-6),
    ],
)
@pytest.mark.parametrize(
    "case", ["7x7_to_12x12", "14x14_to_24x24", "14x14_to_10x10", "4x6_to_7x5"]
)
def test_equals_the_reference(case, method, options, atol):
    _, arrays = load_golden("ops/position_resize")
    old, new = (tuple(map(int, s.split("x"))) for s in case.split("_to_"))
    table = jnp.asarray(arrays[f"pos:{case}"])
    y = resize_positions(table, new, prefix=1, old_grid=old, **options)
    expected = arrays[f"{method}:{case}"]
    np.testing.assert_allclose(y, expected, atol=atol)
    np.testing.assert_array_equal(y[:, :1], table[:, :1])


def test_a_table_that_is_not_square_is_refused():
    with pytest.raises(UserError, match="11 rows is not 1 prefix"):
        resize_positions(jnp.zeros((1, 11, 4)), (2, 2), prefix=1)
