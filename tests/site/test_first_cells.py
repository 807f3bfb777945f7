"""What a reader copies first from a page of the article or a guide runs alone, with the set-up that the page shows."""
import ast
import os
import re
from pathlib import Path

import matplotlib
import nbformat
import pytest
from notebooks import few_rows, is_for_readers, notebooks, shown

pytest.importorskip("nbdev", reason="nbdev is not installed: pip install -e .[dev]")
import pages
from transferlit import tour

UNSEEN = re.compile(r"^#\|\s*(?:hide|export|exports|exporti|default_exp|echo:\s*false|include:\s*false|eval:\s*false)\b", re.M)
FOLDED = re.compile(r"^#\|\s*code-fold:\s*true", re.M)


def has_imports(source):
    return any(isinstance(s, (ast.Import, ast.ImportFrom)) for s in ast.parse(source).body)


def first_cells(nb):
    """Those that a reader sees, down to the first one that is neither folded nor imports."""
    for cell in nb.cells:
        if cell.cell_type != "code" or UNSEEN.search(cell.source) or pages.only_checks(cell):
            continue
        yield cell.source
        if not (FOLDED.search(cell.source) or has_imports(cell.source)):
            return


@pytest.mark.parametrize("path", [p for p in notebooks([]) if is_for_readers(p)], ids=shown)
def test_first_cell_runs_alone(path, tmp_path, monkeypatch):
    nb = nbformat.read(path, as_version=4)
    sources = list(first_cells(nb))
    if any("#| slow" in source for source in sources):
        sources = sources[:2]  # the imports, and what comes first of a page that shows results alone
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(tour._ARTICLE, "steps", 100)  # the whole is for its notebook
    if "TRANSFERLIT_DATA" in os.environ:
        monkeypatch.setenv("TRANSFERLIT_DATA", few_rows(os.environ["TRANSFERLIT_DATA"]))
    matplotlib.use("Agg")
    names = {"__name__": "__main__"}
    for source in sources:
        exec(compile(source, Path(path).name, "exec"), names)


def test_a_hidden_import_is_missed(tmp_path, monkeypatch):
    hidden = nbformat.v4.new_code_cell("#| hide\nimport math")
    nb = nbformat.v4.new_notebook(cells=[hidden, nbformat.v4.new_code_cell("math.pi")])
    with pytest.raises(NameError):
        exec("\n".join(first_cells(nb)), {})


@pytest.mark.parametrize("path", [p for p in notebooks([]) if is_for_readers(p)], ids=shown)
def test_run_all_skips_nothing(path):
    """Jupyter does not know `eval: false`: what must not run is text."""
    sources = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert not [s for s in sources if re.search(r"^#\|\s*eval:\s*false", s, re.M)]
