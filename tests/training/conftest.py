"""A run that was never stopped, for others to be compared with."""

import pytest


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run that nothing stopped."""
    from runs import SMALL

    from kru_ref.training.loop import train

    out = tmp_path_factory.mktemp("whole") / "run"
    train(SMALL, out)
    return out
