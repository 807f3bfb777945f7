"""Each notebook is a test: it runs from top to bottom in a kernel of its own."""
import nbformat
import pytest
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebooks import notebooks, run, shown, stores, tidy


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


def test_a_bar_that_is_wiped_leaves_nothing():
    """It is written piece by piece; what was printed before and after it stays."""
    pieces = "before\n", "\rbody:  10%|#", "\rbody:  90%|#########", "\r             \r", "after\n"
    cell = new_code_cell("1", outputs=[new_output("stream", name="stdout", text=text) for text in pieces])
    bar = new_code_cell("2", outputs=cell.outputs[1:4])
    tidy(nb := new_notebook(cells=[cell, bar]))
    assert [[o.text for o in c.outputs] for c in nb.cells] == [["before\nafter\n"], []]


@pytest.mark.parametrize("code, error", [("1 / 0", CellExecutionError), ("import os; os._exit(3)", DeadKernelError)])
def test_a_notebook_that_fails_is_seen(code, error, tmp_path):
    """Also where its kernel is gone, which is a fork of another process."""
    nbformat.write(new_notebook(cells=[new_code_cell(code)]), tmp_path / "failing.ipynb")
    with pytest.raises(error):
        run(tmp_path / "failing.ipynb")


def test_kernels_know_nothing_of_one_another(tmp_path):
    for name in ("one", "two"):
        cell = new_code_cell("import keras\nassert not hasattr(keras, 'mark')\nkeras.mark = True")
        nbformat.write(new_notebook(cells=[cell]), tmp_path / f"{name}.ipynb")
        run(tmp_path / f"{name}.ipynb")
