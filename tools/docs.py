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
import json
import os
import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import yaml
from check_site import Page, faults
from nbdev.config import get_config, nbpath2html
from nbdev.doclinks import NbdevLookup
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from readme import readme
from smalldocs import site as smalldocs

ROOT = Path(__file__).resolve().parents[1]
NBS, DOCS = ROOT / "nbs", ROOT / "docs"
README, INDEX = ROOT / "README.md", NBS / "index.ipynb"
PROCESSED = ROOT / "_proc"  # by nbdev; the two below are hidden from it
PAGES, SITE = PROCESSED / ".pages", PROCESSED / ".site"
TEXT = {".html", ".css", ".js", ".json", ".md", ".svg", ".txt", ".xml", ""}


def notebooks() -> list[Path]:
    return sorted(p for p in NBS.glob("*.ipynb") if p.name[0] not in "_.")


def process() -> None:
    """Let nbdev make `_proc/`: reference blocks, links from backticks, callouts, no hidden cells."""
    if "transferlit" not in NbdevLookup().entries:
        raise SystemExit("Links to names come from the index of the installed package, and vanish without it. "
                         f"Run `pip install -e .[dev,demo]` and `nbdev-export` first. Received: no index in {ROOT}.")
    # In this process: TensorFlow is imported once, not once a notebook.
    proc_nbs(NBS, n_workers=0, force=True)


def page_names() -> dict[str, str]:
    """`31_freezing` to `freezing`, for every notebook: the name that nbdev's links and Quarto's pages have."""
    names = {p.stem: nbpath2html(p).stem for p in notebooks()}
    if len(set(names.values())) < len(names):
        raise SystemExit(f"Two notebooks would be one page. Rename one. Received: {sorted(names)}.")
    return names


def mended(value, names: dict[str, str]):
    """`value`, any part of a notebook or of YAML, with links to notebooks as links to pages."""
    if isinstance(value, dict):
        return {k: mended(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [mended(v, names) for v in value]
    if not isinstance(value, str):
        return value
    return re.sub(r'(\]\(|href=")(?:\./)?([\w-]+)\.(?:ipynb|html)(?=[#?)"])',
                  lambda m: f"{m[1]}{names.get(m[2], m[2])}.ipynb", value)


def expanded(value, names: dict[str, str]):
    """`value`, a part of `_quarto.yml`, with notebooks and patterns of notebooks as the pages they stand for."""
    if isinstance(value, dict):
        value = {k: expanded(v, names) for k, v in value.items()}
        return None if value.get("contents") == [] else value  # a section without pages is no section
    if isinstance(value, list):
        found = [expanded(v, names) for v in value]
        return [v for part in found if part is not None for v in (part if isinstance(part, list) else [part])]
    if isinstance(value, str) and value.endswith(".ipynb"):
        pages = [f"{names[stem]}.ipynb" for stem in names if fnmatch(stem, value.removesuffix(".ipynb"))]
        return pages if "[" in value or "*" in value else (pages or [value])[0]
    return value


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
    """Copy what nbdev made to `_proc/.pages`, each notebook under the name of its page."""
    PAGES.mkdir()
    for path in (p for p in PROCESSED.iterdir() if p.is_file()):
        if path.suffix != ".ipynb":
            shutil.copy(path, PAGES / path.name)
            continue
        nb = json.loads(path.read_text(encoding="utf-8"))
        nb["cells"] = filled(nb["cells"])
        for cell in nb["cells"]:
            if cell["cell_type"] == "raw":  # the title; smalldocs names a page by its file
                cell["source"] = re.sub(r"^output-file:.*\n", "", "".join(cell["source"]), flags=re.M)
            part = "source" if cell["cell_type"] == "markdown" else "outputs"
            cell[part] = mended(cell["source"] if part == "source" else joined(cell.get("outputs", [])), names)
        (PAGES / f"{names[path.stem]}.ipynb").write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")
    config = yaml.safe_load((NBS / "_quarto.yml").read_text(encoding="utf-8"))
    facts = yaml.safe_load((NBS / "nbdev.yml").read_text(encoding="utf-8"))  # from pyproject.toml, by nbdev
    config = {**config, "metadata-files": [], "website": {**facts["website"], **config["website"]},
              "project": {**config["project"], "output-dir": str(SITE)}}
    (PAGES / "_quarto.yml").write_text(yaml.safe_dump(expanded(config, names), allow_unicode=True), encoding="utf-8")


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


def local(text: str, base: str, ids: dict[str, set[str]]) -> str:
    """`text`, a page, with links to the site's own address as relative ones.

    nbdev's index knows methods and private names too, which have no anchor: they lead to their class, or their page.
    """
    def link(m):
        page, anchor = m[1], m[2] or ""
        anchor += "-class" if m[3] and f"{anchor}-class" in ids.get(page, ()) else ""
        while anchor and anchor not in ids.get(page, ()):
            anchor = anchor.rpartition(".")[0]
        return f'href="{page}{"#" + anchor if anchor else ""}"'
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


def finish(base: str) -> None:
    """Make the site the same on every machine, at home in any folder, and silent towards the network."""
    ids = {p.name: set(Page(p.read_text(encoding="utf-8")).ids) for p in SITE.glob("*.html")}
    pictures = {(p.parent.name, p.read_bytes()): p.relative_to(SITE).as_posix() for p in SITE.glob("*_files/*")}
    for copy in SITE.glob("*.llms.md"):  # Markdown beside each page, where nbdev's module docstrings say it is
        copy.rename(SITE / copy.name.replace(".llms.md", ".html.md"))
    for path in (p for p in SITE.rglob("*") if p.is_file() and p.suffix in TEXT):
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
        if path.suffix == ".html":
            text = local(text, base, ids)
            text = CODE.sub(hung, text)
            text = PRINTED.sub(drawn, text)
            text = re.sub(r'src="data:image/\w+;base64,([^"]+)"',
                          lambda m: f'src="{pictures[path.stem + "_files", base64.b64decode(m[1])]}"', text)
        elif path.suffix in (".md", ".txt"):
            text = text.replace(".llms.md", ".html.md")
        elif path.suffix == ".css":
            text = re.sub(r"@import\s+url\(\s*['\"]?https?:[^)]*\)\s*;", "", text)
        elif path.name == "sitemap.xml":
            text = re.sub(r"\s*<lastmod>.*?</lastmod>", "", text)
        path.write_bytes(text.encode("utf-8"))
    index = (SITE / "search.json").read_text(encoding="utf-8")  # as a script, which a page opened from the disk may load
    (SITE / "search.js").write_text(f"window.searchIndex = {index};\n", encoding="utf-8")


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
    print(f"docs/: {len(list(DOCS.glob('*.html')))} pages, every link and anchor good")
    return 0


if __name__ == "__main__":
    sys.exit(main())
