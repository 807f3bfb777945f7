"""Build the pages in docs/ and README.md from the notebooks, without network.

    python tools/docs.py            write docs/ and README.md
    python tools/docs.py --check    write nothing; fail where what is committed is not what would be built

nbdev runs the cells that show documentation, smalldocs makes HTML of the result. Both read the same
notebooks and `nbs/_quarto.yml` that Quarto reads, so that `PYTHONPATH=tools nbdev-docs` works where Quarto is.
"""
from __future__ import annotations

import argparse
import base64
import difflib
import functools
import html
import inspect
import json
import os
import posixpath
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import nbdev.config
import yaml
from check_site import Page, faults
from nbdev.config import get_config, nbpath2html
from nbdev.doclinks import NbdevLookup
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from notebooks import notebooks
from pages import prefer_public, translations
from readme import readme
from reference import reference
from smalldocs import site as smalldocs
from smalldocs.layout import SiteNav

ROOT = Path(__file__).resolve().parents[1]
NBS, DOCS = ROOT / "nbs", ROOT / "docs"
README, INDEX = ROOT / "README.md", NBS / "index.ipynb"
PROCESSED = ROOT / "_proc"  # by nbdev; the two below are hidden from it
PAGES, SITE = PROCESSED / ".pages", PROCESSED / ".site"
REFERENCE = "reference"  # the page that no notebook makes
TEXT = {".html", ".css", ".js", ".json", ".md", ".svg", ".txt", ".xml", ""}


def read_once() -> None:
    """Settings and sources, which nbdev reads anew for each cell and name, do not change while pages are built."""
    nbdev.config._load_toml = functools.cache(nbdev.config._load_toml)
    inspect.findsource = functools.cache(inspect.findsource)


def process() -> None:
    """Let nbdev make `_proc/`: reference blocks, links from backticks, callouts, no hidden cells."""
    if "transferlit" not in NbdevLookup().entries:
        raise SystemExit("Links to names come from the index of the installed package, and vanish without it. "
                         f"Run `pip install -e .[dev,demo]` and `nbdev-export` first. Received: no index in {ROOT}.")
    prefer_public()
    read_once()
    # In this process: TensorFlow is imported once, not once a notebook.
    proc_nbs(NBS, n_workers=0, force=True)


def stem(path: Path, root: Path) -> str:
    """Where a file is below `root`, without its ending: `formats/30_hdf5`."""
    return path.relative_to(root).with_suffix("").as_posix()


def page_names() -> dict[str, str]:
    """`formats/30_hdf5` to `formats/hdf5`, for every notebook: the place that nbdev's links and Quarto's pages have."""
    names = {stem(p, NBS): stem(nbpath2html(p.relative_to(NBS)), Path()) for p in notebooks([])}
    if len({name.lower() for name in names.values()} - {REFERENCE}) < len(names):
        raise SystemExit(f"Two notebooks would be one page. Rename one. Received: {sorted(names)}.")
    return names


LINK = re.compile(r'''(\]\(|href=")([^\s()"'#?:]+)\.(?:ipynb|html)(?=[#?)" ])''')


def mended(value, names: dict[str, str], folder: str = ""):
    """`value`, any part of a notebook in `folder`, with links to notebooks as links to pages."""
    if isinstance(value, dict):
        return {k: mended(v, names, folder) for k, v in value.items()}
    if isinstance(value, list):
        return [mended(v, names, folder) for v in value]
    if not isinstance(value, str):
        return value

    def page(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        return f"{match[1]}{posixpath.relpath(names.get(target, target), folder or '.')}.ipynb"
    return LINK.sub(page, value)


def expanded(value, names: dict[str, str], seen: set[str]):
    """`value`, a part of `_quarto.yml`, with notebooks and patterns of notebooks as the pages they stand for.

    A pattern stands for what no entry before it has: a page is in the menu once.
    """
    if isinstance(value, dict):
        value = {k: expanded(v, names, seen) for k, v in value.items()}
        return None if value.get("contents") == [] else value  # a section without pages is no section
    if isinstance(value, list):
        found = [expanded(v, names, seen) for v in value]
        parts = [part if isinstance(part, list) else [part] for part in found if part is not None]
        return [v for part in parts for v in part]
    if isinstance(value, str) and value.endswith(".ipynb"):
        return listed(value, names, seen)
    return value


def listed(pattern: str, names: dict[str, str], seen: set[str]):
    """The pages of the notebooks that match, as `Path.glob` matches; the page itself where it is no pattern."""
    stems = sorted(stem(p, NBS) for p in NBS.glob(pattern))
    new = [names[s] for s in stems if s in names and names[s] not in seen]
    seen.update(new)
    pages = [f"{name}.ipynb" for name in new]
    return pages if "[" in pattern or "*" in pattern else (pages or [pattern])[0]


def filled(cells: list) -> list:
    """The cells without headings below which a reader would see nothing: their code is hidden on the page."""
    kept, after = [], 1  # the rank of the heading that follows, 1 at the end of the page, 0 where something else follows
    for cell in reversed(cells):
        heading = re.fullmatch(r"(#+) [^\n]*\n*", "".join(cell["source"])) if cell["cell_type"] == "markdown" else None
        if heading and 0 < after <= len(heading[1]):
            continue
        kept.append(cell)
        after = len(heading[1]) if heading else 0
    return kept[::-1]


TITLE = re.compile(r"\A(#+)(?= )")


def levelled(cells: list) -> list:
    """The cells with headings that skip no level, which a screen reader would take for a gap; the page's title is the first.

    A name that the package exports is a heading of the third level, wherever it stands.
    """
    above = []  # of each heading that holds what follows: its level as written

    def level(match: re.Match) -> str:
        while above and above[-1] >= len(match[1]):
            above.pop()
        above.append(len(match[1]))
        return "#" * (1 + len(above))
    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = TITLE.sub(level, "".join(cell["source"]))
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output["data"]["text/markdown"] = TITLE.sub(level, "".join(output["data"]["text/markdown"]))
    return cells


def joined(outputs: list) -> list:
    """The outputs with what was printed in pieces as one: a page sets each output apart."""
    found = []
    for output in outputs:
        before = found[-1] if found else {}
        if output["output_type"] == "stream" and before.get("name") == output["name"]:
            found[-1] = {**before, "text": "".join(before["text"]) + "".join(output["text"])}
        else:
            found.append(output)
    return found


def stage(names: dict[str, str]) -> None:
    """Copy what nbdev made to `_proc/.pages`, each notebook to the place of its page."""
    for path in sorted(p for p in PROCESSED.rglob("*") if p.is_file()):
        target = PAGES / path.relative_to(PROCESSED)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            name = stem(path, PROCESSED)
            nb = staged(json.loads(path.read_text(encoding="utf-8")), names, posixpath.dirname(name))
            (PAGES / f"{names[name]}.ipynb").write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")
        else:
            shutil.copy(path, target)
    (PAGES / f"{REFERENCE}.md").write_text(reference(), encoding="utf-8")
    config = yaml.safe_dump(menu(names), allow_unicode=True)
    (PAGES / "_quarto.yml").write_text(config, encoding="utf-8")


def staged(nb: dict, names: dict[str, str], folder: str) -> dict:
    """A notebook of `folder` as the renderer shall see it."""
    nb["cells"] = levelled(filled(nb["cells"]))
    for cell in nb["cells"]:
        if cell["cell_type"] == "raw":  # the title; smalldocs names a page by its file
            cell["source"] = re.sub(r"^output-file:.*\n", "", "".join(cell["source"]), flags=re.M)
        part = "source" if cell["cell_type"] == "markdown" else "outputs"
        value = cell["source"] if part == "source" else joined(cell.get("outputs", []))
        cell[part] = mended(value, names, folder)
    return nb


def menu(names: dict[str, str]) -> dict:
    """What `_quarto.yml` says, with the facts of the package and every page in its place of the menu."""
    config = yaml.safe_load((NBS / "_quarto.yml").read_text(encoding="utf-8"))
    facts = yaml.safe_load((NBS / "nbdev.yml").read_text(encoding="utf-8"))  # from pyproject.toml, by nbdev
    config = {**config, "metadata-files": [], "website": {**facts["website"], **config["website"]},
              "project": {**config["project"], "output-dir": str(SITE)}}
    seen = set()
    config = expanded(config, names, seen)
    if missing := sorted(stem for stem, name in names.items() if name not in seen):
        raise SystemExit("Every notebook must be in the menu. Add a pattern for it to nbs/_quarto.yml. "
                         f"Received: {', '.join(missing)}.")
    return config


def render() -> None:
    """The replaceable last step: HTML of `_proc/.pages` in `_proc/.site`."""
    built = smalldocs.build(PAGES, quiet=True)
    if built.warnings:
        raise SystemExit("The pages must render without a warning.\n" + "\n".join(built.warnings))
    for licence in (Path(smalldocs.__file__).parent / "assets" / "vendor").glob("*/LICENSE"):
        target = SITE / "site_libs" / licence.parent.name
        target.mkdir(exist_ok=True)
        shutil.copy(licence, target / "LICENSE")
    (SITE / ".nojekyll").touch()
    (SITE / "llms.txt").write_text(contents_for_machines(built), encoding="utf-8")


def contents_for_machines(built) -> str:
    """llms.txt: the pages in the order of the menu, each with its one line."""
    facts = built.project.website
    lines, (bar,) = [f"# {facts['title']}", "", f"> {facts['description']}"], SiteNav(built).sidebars
    for item in bar["items"]:
        lines += ["", f"## {html.unescape(item.text)}", ""]
        for page in item.pages():
            address = f"{facts['site-url']}/{page.out}.md"
            said = english(page.front.get("description") or "")
            lines.append(f"- [{page.title}]({address})" + (f": {said}" if said else ""))
    return "\n".join(lines) + "\n"


def english(line: str) -> str:
    """The English half of `한국어 · English`; a line of one language stays."""
    korean, dot, rest = line.partition(" · ")
    return rest if dot and re.search("[가-힣]", korean) else line


def local(text: str, base: str, ids: dict[str, set[str]], folder: str = "") -> str:
    """`text`, a page in `folder`, with links to the site's own address as relative ones.

    nbdev's index knows methods and private names too, which have no anchor: they lead to their class, or their page.
    """
    def link(m):
        page, anchor = m[1], m[2] or ""
        anchor += "-class" if m[3] and f"{anchor}-class" in ids.get(page, ()) else ""
        while anchor and anchor not in ids.get(page, ()):
            anchor = anchor.rpartition(".")[0]
        return f'href="{posixpath.relpath(page or "index.html", folder or ".")}{"#" + anchor if anchor else ""}"'
    return re.sub(rf'href="{re.escape(base)}/([\w./-]*)(?:#([^"]*))?"(?: target="_blank")?(?=(?:><code>([A-Z]))?)', link, text)


CODE = re.compile(r'(<code class="sourceCode python">)(.*?)(</code>)', re.S)


def hung(match: re.Match) -> str:
    """A block of code with each line an element of its own, so that a long one breaks below its own indent."""
    spans, lines = [], []
    for line in match[2].split("\n"):
        opened = "".join(spans)
        for tag in re.findall(r"<span[^>]*>|</span>", line):
            spans.append(tag) if tag.startswith("<span") else spans.pop()
        text = re.sub(r"<[^>]*>", "", line)
        at = len(text) - len(text.lstrip(" "))
        lines.append(f'<span class="line" style="--at:{at}">{opened}{line}{"</span>" * len(spans)}</span>')
    return match[1] + "\n".join(lines) + match[3]


PRINTED = re.compile(r"<pre>(<code>)?([^<]+)")


def drawn(match: re.Match) -> str:
    """What was printed: columns keep their lines, and a long line of words around them may break, as all may without columns."""
    if "─" not in match[2] and len(re.findall(r"\S {3,}\S", match[2])) < 2:
        return match[0]
    words = re.sub(r"^(?!.*(?:  |─)).{40,}$", r'<span class="said">\g<0></span>', match[2], flags=re.M)
    return f'<pre class="drawn">{match[1] or ""}{words}'


HEADING = re.compile(r'<(h[2-6])\b[^>]*\bdata-anchor-id="([^"]+)"[^>]*>(.*?)</\1>', re.S)


def slug(title: str) -> str:
    """What stands behind `#` in an address: the words of a heading's English half."""
    words = re.sub(r"<[^>]*>|`", "", html.unescape(english(title)))
    return re.sub(r"[^\w]+", "-", words.lower()).strip("-")


def addressed(text: str) -> str:
    """`text` with a second, English address for each heading that has a name in both languages."""
    taken = set(Page(text).ids)

    def named(match: re.Match) -> str:
        own = slug(re.sub(r"<a\b.*?</a>", "", match[3], flags=re.S))
        if not own or own in taken:
            return match[0]
        taken.add(own)
        return f'<span id="{own}"></span>{match[0]}'
    return HEADING.sub(named, text)


PICTURE = re.compile(r'<h[1-4][^>]*>(?P<title>.*?)</h[1-4]>|<img(?![^>]*\balt=)(?P<rest>[^>]*)>', re.S)


def described(text: str) -> str:
    """`text` with words for each picture that has none: a plot is said to show what its heading says."""
    seen = {"title": "", "number": 0}

    def words(match: re.Match) -> str:
        if match["rest"] is None:
            seen.update(title=re.sub(r"<[^>]*>", "", match["title"]).strip(), number=0)
            return match[0]
        seen["number"] += 1
        return f'<img alt="{alternative(seen["title"], seen["number"])}"{match["rest"]}>'
    return PICTURE.sub(words, text)


def alternative(title: str, number: int) -> str:
    """`그림: 한국어 · Plot: English`, numbered where a heading has several."""
    english_half = english(title)
    korean = title.removesuffix(english_half).removesuffix(" · ") or title
    count = f" ({number})" if number > 1 else ""
    return f"그림: {korean}{count} · Plot: {english_half}{count}".replace('"', "&quot;")


# What a reader of the pages seldom looks for: found all the same, after all else.
INNER = ("floor/", "formats/", "weights/", "cut/", "rows/", "loop/", "store/", "features/", "trainer/", "tf1/", "house/")


def ranked(entries: list[dict]) -> list[dict]:
    """The entries of the search with `words` that lead to them, and whether they are `inner`; the search reads both."""
    names, public = page_names(), set(import_module("transferlit").__all__)
    words = {names.get(name, name): said for name, said in translations()["words"].items()}
    for entry in entries:
        page, _, anchor = entry["href"].partition("#")
        name = entry["section"] if entry["section"] in public and anchor else ""
        own = words.get(name, []) + ([] if anchor else words.get(page.removesuffix(".html"), []))
        entry["inner"] = page.startswith(INNER) and not name
        entry["words"] = [word.lower() for word in [*own, *[name] * bool(name)]]
    return entries


def finish(base: str) -> None:
    """Make the site the same on every machine, at home in any folder, and silent towards the network."""
    ids = {p.relative_to(SITE).as_posix(): set(Page(p.read_text(encoding="utf-8")).ids) for p in SITE.rglob("*.html")}
    for copy in SITE.rglob("*.llms.md"):  # Markdown beside each page, where nbdev's module docstrings say it is
        copy.rename(copy.with_name(copy.name.replace(".llms.md", ".html.md")))
    for path in (p for p in SITE.rglob("*") if p.is_file() and p.suffix in TEXT):
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
        if path.suffix == ".html":
            text = local(text, base, ids, path.parent.relative_to(SITE).as_posix())
            text = CODE.sub(hung, text)
            text = PRINTED.sub(drawn, text)
            text = without_twins(text, path)
            text = described(text)
            text = headed(text)
            text = cornered(text)
            text = breakable(text)
            text = addressed(text)
        elif path.suffix in (".md", ".txt"):
            text = text.replace(".llms.md", ".html.md")
        elif path.suffix == ".css":
            text = re.sub(r"@import\s+url\(\s*['\"]?https?:[^)]*\)\s*;", "", text)
        elif path.name == "sitemap.xml":
            text = re.sub(r"\s*<lastmod>.*?</lastmod>", "", text)
        path.write_bytes(text.encode("utf-8"))
    entries = ranked(json.loads((SITE / "search.json").read_text(encoding="utf-8")))
    index = json.dumps(entries, ensure_ascii=False)
    (SITE / "search.json").write_text(index, encoding="utf-8")
    # As a script too, which a page opened from the disk may load.
    (SITE / "search.js").write_text(f"window.searchIndex = {index};\n", encoding="utf-8")


LONG_NAME = re.compile(r"(?<!<pre>)<code>(\w{24,})</code>")


def breakable(text: str) -> str:
    """`text` with long names that may break behind an underscore: in a table they leave the other columns their room."""
    return LONG_NAME.sub(lambda m: f"<code>{m[1].replace('_', '_<wbr>')}</code>", text)


def cornered(text: str) -> str:
    """`text` with the corner of a table that has names for its rows as a plain cell: it heads nothing."""
    return re.sub(r"<th([^>]*)></th>", r"<td\1></td>", text)


GROUP = re.compile(r"<tr>\s*<td><strong>(.*?)</strong></td>(?:\s*<td></td>)+\s*</tr>", re.S)


def headed(text: str) -> str:
    """`text` with a row that is a heading, bold and alone, as one cell that heads the rows below it."""
    def spanning(row: re.Match) -> str:
        columns = row[0].count("<td>")
        return f'<tr class="group">\n<th colspan="{columns}" scope="colgroup">{row[1]}</th>\n</tr>'
    return GROUP.sub(spanning, text)


def without_twins(text: str, page: Path) -> str:
    """`text` with pictures as the files that the page's Markdown twin has, instead of a second copy inside the page."""
    folder = page.with_name(f"{page.stem}_files")
    files = {p.read_bytes(): f"{folder.name}/{p.name}" for p in folder.glob("*")}
    return re.sub(r'src="data:image/\w+;base64,([^"]+)"', lambda m: f'src="{files[base64.b64decode(m[1])]}"', text)


def build() -> Path:
    """The whole site, built and checked, in `_proc/.site`."""
    os.chdir(ROOT)  # nbdev looks for its settings from here
    sys.path.insert(0, str(ROOT))  # the pages are about this checkout, whatever else is installed
    config, names = get_config(), page_names()
    refresh_quarto_yml()
    process()
    stage(names)
    render()
    finish(config.doc_host + config.doc_baseurl)
    if found := faults(SITE):
        raise SystemExit("\n".join([f"{len(found)} faults in the built pages:", *found]))
    return SITE


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stale(site: Path) -> list[str]:
    """How docs/ and README.md differ from what was built."""
    old, new = contents(DOCS), contents(site)
    found = [f"docs/{n}: " + ("missing" if n not in old else "left over" if n not in new else "differs")
             for n in sorted(old.keys() | new.keys()) if old.get(n) != new.get(n)]
    before = README.read_text(encoding="utf-8").splitlines() if README.exists() else []
    return found + list(difflib.unified_diff(before, readme(INDEX).splitlines(), "README.md", "index.ipynb", lineterm="", n=0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with what is committed; write nothing")
    check, facts = parser.parse_args().check, NBS / "nbdev.yml"
    before = facts.read_bytes()
    site = build()
    if check:
        found = stale(site) + ["nbs/nbdev.yml: differs"] * (facts.read_bytes() != before)
        facts.write_bytes(before)
        print("\n".join([*found, "Run `make docs` and commit the result."] if found else ["docs/ and README.md are fresh"]))
        return bool(found)
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.copytree(site, DOCS)
    README.write_text(readme(INDEX), encoding="utf-8")
    print(f"docs/: {len(list(DOCS.rglob('*.html')))} pages, every link and anchor good")
    return 0


if __name__ == "__main__":
    sys.exit(main())
