"""The builder of the pages, on a small project of its own: same bytes each time, faults found, references mended."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("nbdev", reason="nbdev is not installed: pip install -e .[dev]")
pytest.importorskip("smalldocs", reason="smalldocs is not installed: pip install -e .[dev]")
import check_site
import docs
import pages
import readme

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
INDEX = ["# little\n\n> A little project.", "<div lang=\"ko\">\n\n[표본](31_sample.ipynb#하나-one)과 `Table`과 `Table.to_dict`\n\n</div>",
         "<div lang=\"en\">\n\nthe [sample](31_sample.ipynb#하나-one)\n\n</div>"]
SAMPLE = ["# 표본 · Sample\n\n> One page.", "## 하나 · One", "<div lang=\"ko\">\n\n> [!NOTE]\n> 돌아가기: [처음](index.ipynb)\n\n</div>"]


def write(path, markdown, *code):
    nbformat.write(new_notebook(cells=[*map(new_markdown_cell, markdown), *code]), path)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A checkout with three notebooks, two of them its own, built once."""
    root = tmp_path_factory.mktemp("project with a space")
    ignore = shutil.ignore_patterns("*.ipynb", "__pycache__", "llms.txt")
    for name in ("tools", "transferlit", "nbs"):
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    for name in ("pyproject.toml", "settings.ini", "nbs/06_tables.ipynb"):
        shutil.copy(ROOT / name, root / name)
    (root / "transferlit.egg-info").mkdir()  # what `pip install -e .` leaves
    (root / "transferlit.egg-info" / "entry_points.txt").write_text("[nbdev]\ntransferlit = transferlit._modidx:d\n")
    (root / "transferlit.egg-info" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: transferlit\nVersion: 0\n")
    secret = new_code_cell("#| hide\nsecret = 1")
    picture = new_code_cell("draw()", outputs=[new_output("display_data", {"image/png": DOT, "text/plain": "<Figure>"})])
    write(root / "nbs" / "index.ipynb", INDEX, secret, new_code_cell("1 + 1", outputs=[new_output("execute_result", {"text/plain": "2"})]), picture)
    write(root / "nbs" / "31_sample.ipynb", SAMPLE, picture)
    done = build(root)
    assert done.returncode == 0, done.stderr + done.stdout
    return root


def build(root, *arguments, seed="0", cwd="/"):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONHASHSEED": seed}
    return subprocess.run([sys.executable, root / "tools" / "docs.py", *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_a_second_build_elsewhere_makes_the_same_bytes(project, tmp_path):
    twin = tmp_path / "twin"
    shutil.copytree(project, twin, ignore=shutil.ignore_patterns("_proc", "docs"))  # new times, another folder
    assert build(twin, seed="7", cwd=tmp_path).returncode == 0
    assert files(project / "docs") == files(twin / "docs")
    assert (project / "README.md").read_bytes() == (twin / "README.md").read_bytes()


def test_check_passes_on_fresh_pages_and_fails_on_stale_ones_writing_nothing(project, tmp_path):
    assert build(project, "--check").returncode == 0
    stale = tmp_path / "stale"
    shutil.copytree(project, stale)
    write(stale / "nbs" / "31_sample.ipynb", [*SAMPLE, "새 글 · new text"])
    write(stale / "nbs" / "index.ipynb", [*INDEX, "new text"])
    (stale / "docs" / "left.html").write_text("left over")
    before = files(stale / "docs")
    done = build(stale, "--check")
    assert done.returncode == 1
    assert {"docs/sample.html: differs", "docs/left.html: left over", "+new text"} <= set(done.stdout.splitlines())
    assert files(stale / "docs") == before


@pytest.mark.parametrize(("text", "fault"), [
    ("[gone](32_gone.ipynb)", "broken link"),
    ("[lost](31_sample.ipynb#lost)", "no such anchor"),
    ("![](https://example.com/x.png)", "loads from outside"),
])
def test_a_planted_fault_fails_the_build(project, tmp_path, text, fault):
    bad = tmp_path / "bad"
    shutil.copytree(project, bad, ignore=shutil.ignore_patterns("_proc"))
    write(bad / "nbs" / "index.ipynb", [*INDEX, text])
    before = files(bad / "docs")
    done = build(bad)
    assert done.returncode == 1 and fault in done.stderr
    assert files(bad / "docs") == before


def test_pages_lose_their_numbers_and_references_follow(project):
    site = {p.name: p.read_text(encoding="utf-8") for p in (project / "docs").glob("*.html")}
    assert set(site) == {"index.html", "sample.html", "tables.html"}
    assert 'href="sample.html#' in site["index.html"]
    assert 'href="tables.html#table"><code>Table</code>' in site["index.html"]
    assert 'href="tables.html#table"><code>Table.to_dict</code>' in site["index.html"], "a method leads to its class"
    assert 'href="31_sample' not in "".join(site.values())
    assert "secret" not in site["index.html"]


def test_nothing_of_the_day_or_of_an_address_is_left(project):
    for name, data in files(project / "docs").items():
        found = [word for word in (b"lastmod", b"fonts.googleapis", b"\r\n", str(project).encode()) if word in data]
        assert found == [] or name.endswith((".png", ".woff", ".woff2")), name


def test_pictures_are_files_beside_their_page(project):
    text = (project / "docs" / "sample.html").read_text(encoding="utf-8")
    assert 'src="sample_files/' in text and "base64," not in text


def test_every_module_has_the_markdown_page_its_docstring_names(project):
    assert "tables.html.md" in (project / "transferlit" / "tables.py").read_text(encoding="utf-8")
    assert (project / "docs" / "tables.html.md").read_text(encoding="utf-8").startswith("# ")


def test_readme_is_fresh_and_its_map_names_every_notebook():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == readme.readme(ROOT / "nbs" / "index.ipynb"), "run `make docs`"
    rooms = {p.name for p in (ROOT / "nbs").glob("[0-9]*.ipynb")}
    assert {name for name in rooms if f"(nbs/{name})" not in text} == set(), "a room without a line in the map of nbs/index.ipynb"


def test_readme_is_the_index_as_a_reader_sees_it(project):
    text = (project / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# little\n") and "secret" not in text and "Figure" not in text
    assert '<div lang="ko">\n\n[표본](nbs/31_sample.ipynb#하나-one)' in text
    assert "```python\n1 + 1\n```\n\n```\n2\n```" in text


@pytest.mark.parametrize(("planted", "fault"), [
    ('<a href="gone.html">x</a>', "no such file: gone.html"),
    ('<a href="#gone">x</a>', "no such anchor: #gone"),
    ('<a href="/index.html">x</a>', "a link from the root"),
    ('<a href="javascript:x()">x</a>', "a link of an unknown kind"),
    ('<img src="gone.png">', "no such file: gone.png"),
    ('<script src="https://example.com/x.js"></script>', "loads from outside: https://example.com/x.js"),
    ('<script src="//example.com/x.js"></script>', "loads from outside: //example.com/x.js"),
    ('<link rel="stylesheet" href="https://example.com/x.css">', "loads from outside"),
    ('<script>fetch("https://example.com/x")</script>', "loads from outside"),
    ('<style>@import "https://example.com/x.css";</style>', "loads from outside"),
    ('<p style="background: url(https://example.com/x.png)">x</p>', "loads from outside"),
    ('<p id="twice"></p><p id="twice"></p>', "two elements have the id 'twice'"),
])
def test_check_site_finds_what_is_planted(tmp_path, planted, fault):
    page = "<html><body><p id='here'>x</p><a href='#here'>x</a><a href='https://example.com'>x</a>{}</body></html>"
    (tmp_path / "index.html").write_text(page.format(""))
    assert check_site.faults(tmp_path) == []
    (tmp_path / "index.html").write_text(page.format(planted))
    found = check_site.faults(tmp_path)
    assert len(found) == 1 and fault in found[0]


def test_check_site_reads_stylesheets(tmp_path):
    (tmp_path / "index.html").write_text('<link rel="stylesheet" href="x.css">')
    (tmp_path / "x.css").write_text("@import url(https://fonts.googleapis.com/css2?family=X); a { src: url('gone.woff') }")
    assert [f.split(": ", 1)[1] for f in check_site.faults(tmp_path)] == [
        "loads from outside: https://fonts.googleapis.com/css2?family=X", "no such file: gone.woff"]


def example(
    model:str|None, # what to `a|b`, or None
    /,
    *parts:int, # several
    at:dict[str, int]={}, # a place | a pipe
    _quiet='a*b_c', # signs that Markdown reads
    **rest, # whatever else
)->list|None: # what comes out
    """Do it.

    Raises nothing.
    """


def test_parameter_table_survives_pipes_and_stars():
    block = pages.Reference(example)._repr_markdown_()
    assert "### example {#example .symbol}" in block and "Do it." in block and "Raises nothing." in block
    rows = [line for line in block.splitlines() if line.startswith("| ")]
    assert {row.count("|") for row in rows} == {5} and len(rows) == 2 + 5 + 1
    assert "<code>str&#124;None</code>" in rows[2] and "<code>a&#124;b</code>" in rows[2]
    assert "&#42;parts" in rows[3] and "{}" not in rows[4] and "&#42;&#42;rest" in rows[6] and "whatever else" in rows[6] and "what comes out" in rows[7]


def test_a_line_of_code_breaks_below_its_own_indent_and_its_text_stays():
    code = '<span class="k">if</span> x:\n    <span class="s">"""one\n\n    two"""</span>\n'
    page = f'<pre><code class="sourceCode python">{code}</code></pre>'
    hung = docs.CODE.sub(docs.hung, page)
    assert [int(at) for at in re.findall(r"--at:(\d+)", hung)] == [0, 4, 0, 4, 0]
    assert re.sub(r"<[^>]*>", "", hung) == re.sub(r"<[^>]*>", "", page)
    assert hung.count("<span") == hung.count("</span>") and '<span class="s">    two' in hung


def test_printed_columns_keep_their_lines_and_words_around_them_may_break():
    said, table = "a line of words that is longer than any phone is wide", "path    shape\n──────  ─────\nhidden  (3, 4)"
    shown = docs.PRINTED.sub(docs.drawn, f"<pre><code>{said}\n{table}</code></pre><pre><code>{said}</code></pre>")
    assert shown.startswith(f'<pre class="drawn"><code><span class="said">{said}</span>\n{table}<')
    assert shown.endswith(f"<pre><code>{said}</code></pre>"), "words alone may break anyway"
    assert 'class="drawn"' in docs.PRINTED.sub(docs.drawn, "<pre>--json      as JSON\n--help      help</pre>"), "columns without a rule"


def test_headings_with_nothing_below_them_are_left_out():
    cells = [dict(cell_type="markdown", source=text) for text in ("## a", "### b", "text", "### c", "## d", "### e", "text", "## f")]
    assert [c["source"] for c in docs.filled(cells)] == ["## a", "### b", "text", "## d", "### e", "text"]


def test_names_of_the_package_lead_to_their_page_but_not_in_headings():
    cell = new_markdown_cell("# `tl.freeze`\n\n`tl.freeze(model, ...)` and `tl.nothing`, [`tl.thaw`](x.html)")
    pages.Named(None).cell(cell)
    heading, _, line = cell.source.splitlines()
    assert heading == "# `tl.freeze`" and line.startswith("[`tl.freeze(model, ...)`](http")
    assert line.endswith("/freezing.html#freeze) and `tl.nothing`, [`tl.thaw`](x.html)")


class Example:
    """A thing."""

    def __init__(
        self,
        size:int=3, # how big
    ):
        self.size = size

    def grow(self):
        """Make it bigger.

        Much.
        """

    def call(self):
        return None


def test_class_block_has_parameters_and_methods():
    block = pages.Reference(Example)._repr_markdown_()
    assert "Example(size:int=3)" in block and "how big" in block
    assert "| `grow` | Make it bigger. |" in block and "call" not in block


def test_callouts_become_quartos_and_unknown_ones_are_refused():
    cell = new_markdown_cell('<div lang="ko">\n\n> [!WARNING]\n> 하나\n> 둘\n\n뒤\n\n</div>')
    pages.Callouts(None).cell(cell)
    assert '::: {.callout-warning title="경고"}\n하나\n둘\n:::\n\n뒤' in cell.source
    cell = new_markdown_cell("> [!TIP]\n> x")
    pages.Callouts(None).cell(cell)
    assert 'title="도움말 · Tip"' in cell.source
    with pytest.raises(ValueError, match="NOTE, TIP"):
        pages.Callouts(None).cell(new_markdown_cell("> [!HINT]\n> x"))
