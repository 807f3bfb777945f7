"""What holds for all tests."""
import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def settled_objects():
    """A collection looks at everything alive, and Keras asks for one with each `clear_session`: what earlier tests and
    imports left, a million objects after some hundred tests, is set aside once a module.
    """
    gc.collect()
    gc.freeze()
