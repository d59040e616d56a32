"""One model of each family as XLA compiles it for users, against its reference."""

import pytest
import zoo
from compiling import by_default
from model_goldens import assert_close


@pytest.mark.slow
@pytest.mark.parametrize("case", zoo.ONE_EACH, ids=str)
def test_values_by_the_default_compiler(case):
    model, variables, images, _, arrays = case.build("float32")
    logits, aux = by_default(model.apply)(variables, images)
    assert_close(logits, arrays["logits"], 2e-5)
    assert_close(aux["features"], arrays["features"], 2e-5)
