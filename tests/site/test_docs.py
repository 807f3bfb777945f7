"""The builder of the pages, on a small project of its own: same bytes each time, faults found, references mended."""
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("nbdev", reason="nbdev is not installed: pip install -e .[dev]")
pytest.importorskip("smalldocs", reason="smalldocs is not installed: pip install -e .[dev]")
import check_site
import docs
import notebooks
import pages
import readme
from fastcore.nbio import NbCell

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
INDEX = ["# little\n\n> A little project.", "<div lang=\"ko\">\n\n[표본](31_sample.ipynb#하나-one)과 `Table`과 `Table.to_dict`\n\n</div>",
         "<div lang=\"en\">\n\nthe [sample](31_sample.ipynb#하나-one), the [inner one](house/10_sample.ipynb#둘-two) and `dig`\n\n</div>",
         "![그림 · Picture](transferlit.svg)", "<div lang=\"ko\">\n\n> [!NOTE]\n> 하나\n\n</div>"]
SAMPLE = ["# 표본 · Sample\n\n> One page.", "## 하나 · One", "<div lang=\"ko\">\n\n> [!NOTE]\n> 돌아가기: [처음](index.ipynb)\n\n</div>"]
INNER = ["# 안쪽 표본 · Inner sample\n\n> A page in a folder.", "## 둘 · Two",
         "<div lang=\"ko\">\n\n[표본](../31_sample.ipynb#하나-one), [처음](../index.ipynb), `Table`, `dig`\n\n</div>",
         "![그림 · Picture](../transferlit.svg)"]


def write(path, markdown, *code):
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=[*map(new_markdown_cell, markdown), *code]), path)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A checkout with four notebooks, three of them its own and one of these in a folder, exported and built once."""
    root = tmp_path_factory.mktemp("project with a space")
    ignore = shutil.ignore_patterns("*.ipynb", "__pycache__", "llms.txt")
    for name in ("tools", "nbs"):
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    (root / "transferlit").mkdir()
    for name in ("files", "tables"):  # the pages of the two, at the top of this small project
        found, = (ROOT / "nbs" / "floor").glob(f"*_{name}.ipynb")
        shutil.copy(found, root / "nbs" / found.name)
    for name in ("pyproject.toml", "settings.ini", "transferlit/__init__.py"):
        shutil.copy(ROOT / name, root / name)
    (root / "transferlit.egg-info").mkdir()  # what `pip install -e .` leaves
    (root / "transferlit.egg-info" / "entry_points.txt").write_text("[nbdev]\ntransferlit = transferlit._modidx:d\n")
    (root / "transferlit.egg-info" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: transferlit\nVersion: 0\n")
    secret = new_code_cell("#| hide\nsecret = 1")
    picture = new_code_cell("draw()", outputs=[new_output("display_data", {"image/png": DOT, "text/plain": "<Figure>"})])
    write(root / "nbs" / "index.ipynb", INDEX, secret, new_code_cell("1 + 1", outputs=[new_output("execute_result", {"text/plain": "2"})]), picture)
    write(root / "nbs" / "31_sample.ipynb", SAMPLE, picture)
    write(root / "nbs" / "house" / "10_sample.ipynb", INNER, *inner_code(), picture)
    assert tool(root, "notebooks", "mend").returncode == 0
    init = root / "transferlit" / "__init__.py"
    homes = '_HOME = {"Table": "tables", "dig": "inner.sample"}'
    init.write_text(re.sub(r"_HOME = \{.*?\n\}", homes, init.read_text("utf-8"), flags=re.S), encoding="utf-8")
    subprocess.run([Path(sys.executable).with_name("nbdev-export")], cwd=root, check=True, capture_output=True)
    done = build(root)
    assert done.returncode == 0, done.stderr + done.stdout
    return root


def inner_code(said="Dig."):
    """What exports a module to a folder of the package."""
    source = f'#| exports\ndef dig()->int: # how deep\n    "{said}"\n    return 1'
    return new_code_cell("#| default_exp inner.sample"), new_code_cell(source, id="dig")


def tool(root, name, *arguments, seed="0", cwd="/"):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONHASHSEED": seed}
    command = [sys.executable, root / "tools" / f"{name}.py", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def build(root, *arguments, **how):
    return tool(root, "docs", *arguments, **how)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_a_second_build_elsewhere_makes_the_same_bytes(project, tmp_path):
    """So `--check` finds nothing there, and writes nothing."""
    twin = tmp_path / "twin"
    shutil.copytree(project, twin, ignore=shutil.ignore_patterns("_proc"))  # new times, another folder
    done = build(twin, "--check", seed="7", cwd=tmp_path)
    assert done.returncode == 0 and "docs/ and README.md are fresh" in done.stdout
    assert files(project / "docs") == files(twin / "docs")


def test_check_fails_on_stale_pages_writing_nothing(project, tmp_path):
    stale = tmp_path / "stale"
    shutil.copytree(project, stale)
    write(stale / "nbs" / "31_sample.ipynb", [*SAMPLE, "새 글 · new text"])
    write(stale / "nbs" / "index.ipynb", [*INDEX, "new text"])
    write(stale / "nbs" / "house" / "10_sample.ipynb", [*INNER, "new text"], *inner_code())
    (stale / "docs" / "left.html").write_text("left over")
    before = files(stale / "docs")
    done = build(stale, "--check")
    assert done.returncode == 1
    told = {"docs/sample.html: differs", "docs/house/sample.html: differs", "docs/left.html: left over", "+new text"}
    assert told <= set(done.stdout.splitlines())
    assert files(stale / "docs") == before


OUTSIDE = "![](https://example.com/x.png)"


@pytest.mark.parametrize("planted", [
    {"index": [("[gone](32_gone.ipynb)", "broken link")],
     "house/10_sample": [("[above, not beside](31_sample.ipynb)", "broken link")]},
    {"index": [("[lost](31_sample.ipynb#lost)", "no such anchor"), (OUTSIDE, "loads from outside")],
     "house/10_sample": [("[lost](../31_sample.ipynb#lost)", "no such anchor"), (OUTSIDE, "loads from outside")]},
    {"elsewhere/10_new": [("# new", "must be in the menu")]},
    {"house/20_sample": [("# twin", "would be one page")]},
])
def test_planted_faults_fail_the_build(project, tmp_path, planted):
    """All that one step finds are told at once, each with its page."""
    bad = tmp_path / "bad"
    shutil.copytree(project, bad, ignore=shutil.ignore_patterns("_proc"))
    titles = {"index": INDEX, "house/10_sample": INNER}
    for place, faults in planted.items():
        write(bad / "nbs" / f"{place}.ipynb", [*titles.get(place, []), *(text for text, _ in faults)], *inner_code())
    before = files(bad / "docs")
    done = build(bad)
    assert done.returncode == 1 and files(bad / "docs") == before
    for place, faults in planted.items():
        page = re.sub(r"\d+_", "", place)
        told = [line for line in done.stderr.splitlines() if page in line or place in line]
        assert all(any(fault in line for line in told) for _, fault in faults), done.stderr


def replaced(project, folder, *code):
    """A copy of the project with other code in the notebook that lies in a folder."""
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("_proc", "docs"))
    write(folder / "nbs" / "house" / "10_sample.ipynb", INNER, *code)
    return folder


def test_a_module_behind_its_notebook_is_seen_in_any_folder(project, tmp_path):
    done = tool(project, "exported")
    assert done.returncode == 0, done.stdout
    done = tool(replaced(project, tmp_path / "stale", *inner_code("Dig deeper.")), "exported")
    assert done.returncode == 1 and "+++ exported/inner/sample.py" in done.stdout and '+    "Dig deeper."' in done.stdout


def test_a_module_without_a_notebook_is_seen(project, tmp_path):
    """As when a notebook went, or exports to another place now."""
    done = tool(replaced(project, tmp_path / "left"), "exported")
    assert done.returncode == 1 and "-def dig()->int: # how deep" in done.stdout


@pytest.mark.parametrize(("cell", "fault"), [
    (new_code_cell("1", execution_count=7), "metadata or execution counts"),
    (new_code_cell("1", metadata={"scrolled": True}), "metadata or execution counts"),
    (new_code_cell("1", outputs=[new_output("stream", name="stderr", text="x")]), "stderr output is stored"),
    (new_code_cell("1", outputs=[new_output("stream", name="stdout", text="/home/me/secret/x.py")]), "names this machine"),
])
def test_an_unclean_notebook_is_seen_in_any_folder(project, tmp_path, cell, fault):
    done = tool(replaced(project, tmp_path / "bad", cell), "notebooks", "check")
    said, = [line for line in done.stdout.splitlines() if line.startswith("house/10_sample.ipynb: ")]
    assert done.returncode == 1 and fault in said


def test_clean_notebooks_pass_in_every_folder(project):
    done = tool(project, "notebooks", "check")
    assert done.returncode == 0 and "house/10_sample.ipynb: clean" in done.stdout.splitlines()


def test_every_notebook_runs_in_its_own_folder_and_a_failure_is_told(tmp_path):
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for place in ("nbs/10_top", "nbs/house/10_inner"):
        here = new_code_cell(f"import os; assert os.getcwd() == {str((tmp_path / place).parent)!r}")
        write(tmp_path / f"{place}.ipynb", ["# x"], here)
    done = tool(tmp_path, "notebooks", "run")
    assert done.returncode == 0 and re.findall(r"^\S+", done.stdout, re.M) == ["10_top.ipynb:", "house/10_inner.ipynb:"]
    write(tmp_path / "nbs/house/10_inner.ipynb", ["# x"], new_code_cell("1 / 0"))
    done = tool(tmp_path, "notebooks", "run")
    assert done.returncode == 1 and "house/10_inner.ipynb: failed" in done.stderr


@pytest.mark.parametrize(("source", "outputs", "folds"), [
    ("test_eq(1, 1)\nassert True", [], True),
    ("before = 1\nwith expect_fail(ValueError):\n    int('x')", [], True),
    ("def f(): return 1\ntest_eq(f(), 1)", [], False),
    ("x = 1", [], False),
    ("test_eq(1, 1)", [new_output("stream", text="shown")], False),
    ("#| hide\ntest_eq(1, 1)", [], False),
    ("%%time\nassert 1", [], False),
])
def test_cells_that_only_assert_fold(source, outputs, folds):
    cell = NbCell(0, dict(cell_type="code", source=source, outputs=outputs))
    cell.directives_ = cell.directives
    pages.fold_checks(cell)
    assert ("확인 · Check" in cell.source) == folds


@pytest.mark.parametrize(("title", "address"), [
    ("낡은 캐시 · A stale cache", "a-stale-cache"), ("명시했을 때만 · Position matching (opt-in)", "position-matching-opt-in"),
    ("`var_list`와 동결 · <code>var_list</code> and freezing", "var_list-and-freezing"), ("PyTorch", "pytorch"),
])
def test_headings_have_english_addresses(title, address):
    assert docs.slug(title) == address
    page = f'<h2 data-anchor-id="x">{title}</h2><h2 data-anchor-id="y">{title}</h2>'
    assert docs.addressed(page).count(f'<span id="{address}"></span><h2') == 1


def test_drafts_and_checkpoints_are_no_notebooks(tmp_path, monkeypatch):
    for place in ("10_x", "house/10_x", "_draft", "house/_draft", ".ipynb_checkpoints/10_x", "house/.ipynb_checkpoints/10_x"):
        (tmp_path / f"{place}.ipynb").parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / f"{place}.ipynb").touch()
    monkeypatch.setattr(notebooks, "NBS", tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in notebooks.notebooks([])] == ["10_x.ipynb", "house/10_x.ipynb"]


def test_pages_lose_their_numbers_and_references_follow(project):
    root = project / "docs"
    site = {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in root.rglob("*.html")}
    assert set(site) == {"index.html", "sample.html", "files.html", "tables.html", "house/sample.html", "reference.html"}
    assert 'href="sample.html#' in site["index.html"]
    assert 'href="tables.html#table"><code>Table</code>' in site["index.html"]
    assert 'href="tables.html#table"><code>Table.to_dict</code>' in site["index.html"], "a method leads to its class"
    assert 'href="31_sample' not in "".join(site.values()) and "10_sample.html" not in "".join(site.values())
    assert "secret" not in site["index.html"]


def test_a_page_in_a_folder_leads_up_and_is_led_to(project):
    inner, index = ((project / "docs" / name).read_text(encoding="utf-8") for name in ("house/sample.html", "index.html"))
    assert 'href="house/sample.html#둘-two"' in unquote(index) and 'href="house/sample.html#dig"><code>dig</code>' in index
    assert 'href="../sample.html#하나-one"' in unquote(inner) and 'href="../index.html"' in inner
    assert 'href="../tables.html#table"><code>Table</code>' in inner and 'href="sample.html#dig"><code>dig</code>' in inner
    assert 'src="../transferlit.svg"' in inner and 'src="sample_files/' in inner and 'href="../styles.css"' in inner
    assert 'name="smalldocs:offset" content="../"' in inner, "which the search, and labels.html, set before their files"


def test_a_page_in_a_folder_says_where_its_notebook_and_its_source_are(project):
    text, github = (project / "docs/house/sample.html").read_text(encoding="utf-8"), "transferlit/transferlit"
    place = "main/nbs/house/10_sample.ipynb"
    for link in (f"https://github.com/{github}/blob/{place}", f"https://colab.research.google.com/github/{github}/blob/{place}",
                 f"https://raw.githubusercontent.com/{github}/{place}"):
        assert f'href="{link}"' in text
    assert f'href="https://github.com/{github}/blob/main/transferlit/inner/sample.py#L' in text


def test_lists_for_machines_know_every_page_in_the_order_of_the_menu(project):
    base = "https://transferlit.github.io/transferlit"
    pages = ["index", "files", "tables", "sample", "reference", "house/sample"]
    lists = {n: (project / "docs" / n).read_text(encoding="utf-8") for n in ("llms.txt", "sitemap.xml", "search.json")}
    assert re.findall(rf"\({base}/(.*)\.html\.md\)", lists["llms.txt"]) == pages
    assert f"[안쪽 표본 · Inner sample]({base}/house/sample.html.md): A page in a folder." in lists["llms.txt"]
    assert sorted(re.findall(rf"<loc>{base}/(.*)\.html</loc>", lists["sitemap.xml"])) == sorted(pages)
    assert '"href": "house/sample.html#' in lists["search.json"]


def test_the_reference_names_every_public_function_by_module(project):
    text = (project / "docs" / "reference.html").read_text(encoding="utf-8")
    assert re.findall(r"<h2[^>]*>.*?<code>(.*?)</code>", text) == ["transferlit.inner.sample", "transferlit.tables"]
    assert 'href="house/sample.html#dig"><code>dig</code></a></td>\n<td>Dig.</td>' in text


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
    assert "/house/sample.html.md" in (project / "transferlit" / "inner" / "sample.py").read_text(encoding="utf-8")
    twin = (project / "docs" / "house" / "sample.html.md").read_text(encoding="utf-8")
    assert "](../sample.html.md#하나-one)" in twin and "](sample_files/" in twin


def test_readme_is_fresh_and_its_map_names_every_notebook():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == readme.readme(ROOT / "nbs" / "index.ipynb"), "run `make docs`"
    pages = {f"{docs.get_config().doc_host}{docs.get_config().doc_baseurl}/{name}.html" for name in docs.page_names().values()}
    assert {page for page in pages if f"({page}" not in text and not page.endswith("/index.html")} == set(), \
        "a notebook without a line in the map of nbs/index.ipynb"


def test_readme_is_the_index_as_a_reader_sees_it(project):
    text = (project / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# little\n") and "secret" not in text and "Figure" not in text
    assert "[표본](https://transferlit.github.io/transferlit/sample.html#하나-one)" in text
    assert "[inner one](https://transferlit.github.io/transferlit/house/sample.html#둘-two)" in text
    assert "![그림 · Picture](https://raw.githubusercontent.com/transferlit/transferlit/main/nbs/transferlit.svg)" in text
    assert "```python\n1 + 1\n```\n\n```\n2\n```" in text


def test_readme_has_no_mark_that_a_package_index_shows_raw(project):
    text = (project / "README.md").read_text(encoding="utf-8")
    assert "<div" not in text and "[!" not in text and "> **참고**\n>\n> 하나" in text
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links and all(link.startswith("https://") for link in links)


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
    ("<p>[<code>f</code>](gone.ipynb)</p>", "Markdown shown raw"),
    ("<p>a **bold word</p>", "Markdown shown raw"),
])
def test_check_site_finds_what_is_planted(tmp_path, planted, fault):
    page = "<html><body><p id='here'>x <code>a[0](**b)</code></p><a href='#here'>x</a><a href='https://example.com'>x</a>{}</body></html>"
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


def test_headings_skip_no_level():
    """A name of the package is written as a third level; below the title it is a second, and names beside it stay beside it."""
    def block(name, level):
        return dict(cell_type="code", source="", outputs=[{"data": {"text/markdown": [f"{level} {name} {{#{name} .symbol}}\n", "text"]}}])
    cells = [block("a", "###"), block("b", "###"), dict(cell_type="markdown", source="## c"), block("d", "###"),
             dict(cell_type="markdown", source="text\n# not a heading"), dict(cell_type="markdown", source="#### e")]
    made = [cell.get("outputs", [{}])[0].get("data", {}).get("text/markdown") or cell["source"] for cell in docs.levelled(cells)]
    assert [text.partition(" ")[0] for text in made] == ["##", "##", "##", "###", "text\n#", "####"]


def test_the_corner_of_a_table_heads_nothing():
    made = docs.cornered('<tr><th></th><th style="a"></th><th>x</th></tr>')
    assert made == '<tr><td></td><td style="a"></td><th>x</th></tr>'


def test_names_of_the_package_lead_to_their_page_but_not_in_headings():
    cell = new_markdown_cell("# `tl.freeze`\n\n`tl.freeze(model, ...)` and `tl.nothing`, [`tl.thaw`](x.html)")
    pages.Named(None).cell(cell)
    heading, _, line = cell.source.splitlines()
    assert heading == "# `tl.freeze`" and line.startswith("[`tl.freeze(model, ...)`](http")
    assert line.endswith("/freezing.html#freeze) and `tl.nothing`, [`tl.thaw`](x.html)")
    cell = new_markdown_cell("[[`freeze`](https://a.b/freezing.html#freeze)](x.html)")  # as nbdev leaves [`freeze`](x.html)
    pages.Named(None).cell(cell)
    assert cell.source == "[`freeze`](x.html)"


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


def test_callouts_read_well_in_jupyter_too():
    """A kind in bold, in one language or both, is a callout; other bold words, and quotations, stay as they are."""
    for word in ("참고", "Note", "참고 · Note"):
        assert pages.marked(f"> **{word}**\n>\n> one\n> two") == "> [!NOTE]\n> one\n> two"
    for text in ("> **Otherwise**\n>\n> one", "> **Note**: one", "**Note**\n\none"):
        assert pages.marked(text) == text


def test_mending_a_notebook_writes_callouts_in_words():
    said = {"<div lang=\"ko\">": "참고", "<div lang=\"en\">": "Note", "": "참고 · Note"}
    for lead, word in said.items():
        assert notebooks.plainly(f"{lead}\n\n> [!NOTE]\n> one") == f"{lead}\n\n> **{word}**\n>\n> one"


def test_jupyterlab_folds_what_a_page_hides():
    """Cells that are hidden, folded or run without their code, and the imports of a module; others stay open."""
    imports = "#| export\nfrom __future__ import annotations"
    folded = "#| hide\n1", "#| default_exp x", "#| code-fold: true\n# a\n1", "#| echo: false\n1", imports
    cells = [new_code_cell(text) for text in (*folded, "1", "#| export\ndef one(): ...")]
    nb, path = new_notebook(cells=cells), notebooks.NBS / "index.ipynb"
    assert notebooks.unfolded(nb, path) == cells[:5] and not notebooks.unfolded(nb, notebooks.NBS / "cut" / "a.ipynb")
    notebooks.fold(nb, path)
    assert not notebooks.unfolded(nb, path) and not any("jupyter" in cell.metadata for cell in cells[5:])


def test_a_picture_without_words_gets_those_of_its_heading():
    text = '<h2 id="a">곡선 · Curves</h2><img src="a.png"><img src="b.png"><img alt="" src="c.svg">'
    made = docs.described(text)
    assert 'alt="그림: 곡선 · Plot: Curves" src="a.png"' in made
    assert 'alt="그림: 곡선 (2) · Plot: Curves (2)" src="b.png"' in made and '<img alt="" src="c.svg">' in made


def test_every_notebook_has_a_korean_line_below_its_title():
    """For readers in the notebook itself, so that Jupyter shows it as well."""
    paths, lines = notebooks.notebooks([]), pages.translations()["lines"]
    names = {p.relative_to(ROOT / "nbs").with_suffix("").as_posix() for p in paths}
    readers = {p.relative_to(ROOT / "nbs").with_suffix("").as_posix() for p in paths if notebooks.is_for_readers(p)}
    assert set(lines) == names - readers
    lines |= {name: pages.korean_line(ROOT / "nbs" / f"{name}.ipynb") for name in readers}
    assert all(re.search("[가-힣]", line) and " · " not in line for line in lines.values())
    public = set(importlib.import_module("transferlit").__all__)
    assert set(pages.translations()["words"]) <= public | names


def test_the_figure_of_speed_is_the_one_that_was_measured():
    """What the opening page, the wrap-up and the page on speed say is what a cell of that page printed."""
    speed = nbformat.read(ROOT / "nbs" / "results" / "10_speed.ipynb", as_version=4)
    texts = ["".join(o.get("data", {}).get("text/plain", "")) for c in speed.cells if c.cell_type == "code" for o in c.outputs]
    table, = (text for text in texts if text.startswith("Section 3.3 whole"))
    slow, fast = (float(re.search(rf"{way} +([\d.]+)", table)[1]) for way in ("3.1 by Keras fit", "3.3 by tl.fit"))
    said = [f"{slow:.1f}", f"{fast:.1f}", f"{slow / fast:.1f}"]
    for name in ("index", "40_wrapup", "results/10_speed"):
        cells = nbformat.read(ROOT / "nbs" / f"{name}.ipynb", as_version=4).cells
        for lang in ("ko", "en"):
            text = next(c.source for c in cells if f'lang="{lang}"' in c.source and "`tl.fit`" in c.source and said[2] in c.source)
            assert all(figure in text for figure in said), name


def test_folded_code_is_named_in_both_languages():
    """By its first line, which JupyterLab shows of it, too."""
    cells = [c for p in notebooks.notebooks([]) for c in nbformat.read(p, as_version=4).cells if "code-fold: true" in c.source[:120]]
    assert cells and all(re.match('#[|] code-summary: ".+ · .+"\n', c.source) for c in cells)


def test_a_long_name_in_a_table_may_break_behind_an_underscore():
    name = "test_killed_in_the_middle_of_a_save"
    broken = docs.breakable(f"<td><code>{name}</code>, <code>save</code></td>")
    assert broken.count("<wbr>") == name.count("_") and "<code>save</code>" in broken
    assert re.sub("<wbr>", "", broken) == f"<td><code>{name}</code>, <code>save</code></td>"
    assert docs.breakable(f"<pre><code>{name}</code></pre>") == f"<pre><code>{name}</code></pre>"


def test_a_name_of_several_modules_is_described_where_it_is():
    """On a page of its module as that has it; in the reference as users call it."""
    index, root = importlib.import_module("transferlit._modidx").d["syms"], docs.DOCS
    own = {}
    for names in index.values():
        for address, module in names.values():
            own.setdefault(address.partition("#")[0], set()).add(module)
    for page, modules in own.items():
        text = (root / f"{page}.md").read_text("utf-8")
        assert set(re.findall(r"blob/main/(transferlit/[\w/]+\.py)#L", text)) <= modules, page
    package, reference = importlib.import_module("transferlit"), (root / "reference.html.md").read_text("utf-8")
    for name in package.__all__:
        module = getattr(package, name).__module__
        assert f"/{index[module][f'{module}.{name}'][0]})" in reference, name


READERS = sorted([*(ROOT / "docs").glob("*.html.md"), *(ROOT / "docs/guides").glob("*.html.md")])


def test_each_parameter_that_a_reader_meets_is_explained():
    """In the tables of functions on the pages of the article and the guides."""
    rows = []
    for page in READERS:
        tables = page.read_text(encoding="utf-8").split("| 이름 · Name | 형 · Type | 기본값 · Default | 설명 · Details |\n")[1:]
        rows += [(page.name, row) for table in tables for row in table.split("\n\n")[0].splitlines()[1:]]
    assert len(rows) > 100
    assert [row for row in rows if row[1].endswith("|  |") and not row[1].startswith("| **")] == []


def test_grouped_parameters_stand_once_below_their_headings():
    """Each parameter of a function with groups is in one of them, so that none falls behind the last."""
    package = importlib.import_module("transferlit")
    for name, groups in pages.translations()["groups"].items():
        parameters = list(inspect.signature(getattr(package, name)).parameters)
        assert sorted(sum(groups.values(), [])) == sorted(parameters), name
        assert all(" · " in title for title in groups), name


def test_a_heading_inside_a_table_spans_it():
    page = "<tr>\n<td><strong>데이터 · Data</strong></td>\n<td></td>\n<td></td>\n<td></td>\n</tr>\n<tr>\n<td>x</td>\n<td></td>\n</tr>"
    headed = docs.headed(page)
    assert '<th colspan="4" scope="colgroup">데이터 · Data</th>' in headed and "<td>x</td>\n<td></td>" in headed
