"""Each notebook is a test: it runs from top to bottom in a kernel of its own."""
import pytest
from notebooks import notebooks, run


@pytest.mark.parametrize("path", notebooks([]), ids=lambda path: path.stem)
def test_notebook(path):
    run(path)
