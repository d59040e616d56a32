"""A label pack of the digits."""

import pytest
import runs
from label_packs import records_of, spec_of

from vit_jax_tricks import data
from vit_jax_tricks.data.label_pack.writer import write_pack


@pytest.fixture(scope="session")
def digits(data_dir):
    return data.build("digits", data_dir=data_dir)


@pytest.fixture(scope="session")
def written(digits, tmp_path_factory):
    """A pack that no test changes."""
    path = tmp_path_factory.mktemp("pack") / "digits"
    assert write_pack(path, spec_of(digits), records_of(digits))
    return path


@pytest.fixture
def copy(written, tmp_path):
    return runs.copied(written, tmp_path)
