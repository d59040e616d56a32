"""Pictures for the tiny experiments."""

import pytest
import reference


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """48 pictures of three classes for training, 21 for testing."""
    return reference.pictures(tmp_path_factory.mktemp("pictures"))
