"""The vectors that this version computes."""

import pytest

from kru_ref.checks import vectors


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    vectors.write(folder)
    return folder
