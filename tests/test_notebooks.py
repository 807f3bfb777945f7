"""Each notebook is a test: it runs from top to bottom in a kernel of its own."""
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from notebooks import notebooks, run, shown, stores


@pytest.mark.parametrize("path", notebooks([]), ids=shown)
def test_notebook(path):
    run(path)


def test_a_short_run_leaves_the_outputs_of_a_long_form_alone(tmp_path, monkeypatch):
    long = new_notebook(cells=[new_code_cell("full = os.environ.get('TRANSFERLIT_BENCH') == 'full'")])
    other = new_notebook(cells=[new_markdown_cell("Run it with `TRANSFERLIT_BENCH=full`."), new_code_cell("1 + 1")])
    monkeypatch.delenv("TRANSFERLIT_BENCH", raising=False)
    assert (stores(long, tmp_path), stores(other, tmp_path)) == (False, True)
    monkeypatch.setenv("TRANSFERLIT_BENCH", "full")
    assert stores(long, tmp_path)
