"""What nbdev runs on every page: the reference block of each public name, and the callouts.

nbdev finds both by the settings `renderer` and `doc_procs`; `tools/docs.py` runs with this folder on the path.
"""
from __future__ import annotations

import ast
import functools
import html
import inspect
import re
import textwrap
from importlib import import_module
from itertools import groupby
from pathlib import Path
from types import ModuleType

import yaml
from fastcore.docments import docments
from fastcore.nbio import mk_cell, read_nb
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.process import Processor
from nbdev.showdoc import BasicMarkdownRenderer

HEAD = ("이름 · Name", "형 · Type", "기본값 · Default", "설명 · Details")
WIDTH = 88  # a longer signature gets one line a parameter


def code(text: str) -> str:
    """`text` as code in a table cell; every sign that Markdown or a table would read becomes an entity."""
    if not text or re.fullmatch(r"[\w.]+", text):  # backticks, so that nbdev can link the name
        return text and f"`{text}`"
    return plain_code(text)


def plain_code(text: str) -> str:
    """`text` as code that nbdev links to nothing: a parameter is no function of that name."""
    shown = text if text.isidentifier() else re.sub(r"[^\w\s]|_", lambda m: f"&#{ord(m[0])};", text)
    return f"<code>{shown}</code>"


def cell(text: str | None) -> str:
    text = re.sub(r"`([^`]*\|[^`]*)`", lambda m: code(m[1]), " ".join((text or "").split()))
    return text.replace("|", "&#124;")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table without the columns that would be empty; nothing where there are no rows."""
    full = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines = [[line[i] for i in full] for line in (head, ["---"] * len(head), *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) if rows else ""


class Source:
    """How a function or class is written: its parameters with their types and defaults as in the source."""

    def __init__(self, obj):
        self.obj, self.text = obj, textwrap.dedent(inspect.getsource(obj))
        self.tree = ast.parse(self.text).body[0]
        self.is_class = isinstance(self.tree, ast.ClassDef)
        self.init = next((n for n in self.methods() if n.name == "__init__"), None) if self.is_class else self.tree

    def written(self, node: ast.expr | None) -> str:
        return " ".join((ast.get_source_segment(self.text, node) or "").split()) if node else ""

    def methods(self) -> list[ast.FunctionDef]:
        return [n for n in self.tree.body if isinstance(n, ast.FunctionDef)]

    def parameters(self) -> list[tuple[str, str, str]]:
        """Name (with its stars), type and default of each; fields where a class has no `__init__` of its own."""
        if self.init is None:
            fields = [n for n in self.tree.body if isinstance(n, ast.AnnAssign) and not n.target.id.startswith("_")]
            return [(n.target.id, self.written(n.annotation), self.written(n.value)) for n in fields]
        a = self.init.args
        plain = a.posonlyargs + a.args
        found = [*zip(plain, [None] * (len(plain) - len(a.defaults)) + a.defaults, [""] * len(plain))]
        found += [(a.vararg, None, "*")] if a.vararg else []
        found += [*zip(a.kwonlyargs, a.kw_defaults, [""] * len(a.kwonlyargs))]
        found += [(a.kwarg, None, "**")] if a.kwarg else []
        return [(stars + p.arg, self.written(p.annotation), self.written(default))
                for p, default, stars in found if p.arg not in ("self", "cls")]

    def comment(self, name: str) -> str:
        """What stands behind `*name` or `**name`, which fastcore passes over."""
        found = re.search(rf"^\s*{re.escape(name)}\b.*?#\s*(.*)$", self.text, re.M) if name.startswith("*") else None
        return cell(found[1]) if found else ""

    def returns(self) -> str:
        return "" if self.is_class else self.written(self.tree.returns)

    def signature(self, name: str) -> str:
        parts = [f"{n}{':' + t if t else ''}{'=' + d if d else ''}" for n, t, d in self.parameters()]
        if self.init and self.init.args.kwonlyargs and not self.init.args.vararg:
            parts.insert(len(parts) - len(self.init.args.kwonlyargs) - bool(self.init.args.kwarg), "*")
        tail = f"->{self.returns()}" if self.returns() else ""
        line = f"{name}({', '.join(parts)}){tail}"
        return line if len(line) <= WIDTH else f"{name}(\n" + "".join(f"    {p},\n" for p in parts) + f"){tail}"

    def rows(self) -> list[tuple[str, ...]]:
        said = docments(self.obj, full=True)
        details = {name: cell(entry["docment"]) for name, entry in said.items()}
        rows = [(plain_code(n), code(t), code(d), details.get(n.lstrip("*")) or self.comment(n)) for n, t, d in self.parameters()]
        returned = self.returns()
        return rows + ([("반환 · Returns", code(returned), "", details.get("return", ""))] if returned not in ("", "None") or details.get("return") else [])

    def summary(self) -> str:
        return (ast.get_docstring(self.tree) or "").partition("\n")[0]

    def method_rows(self) -> list[tuple[str, ...]]:
        """What the public methods say of themselves; those that say nothing are their base class's business."""
        public = [n for n in self.methods() if not n.name.startswith("_")] if self.is_class else []
        return [(code(n.name), cell(doc.partition("\n")[0])) for n in public if (doc := ast.get_docstring(n))]


class Reference(BasicMarkdownRenderer):
    """A public name on its page: where it is, how it is called, what it says, and a table of its parameters."""

    def _repr_markdown_(self) -> str:
        home = home_like(self.sym, self.nm)
        # What the notebook ran is a twin of what the package holds; only the latter has a file to read and to link to.
        obj = home_of(home, self.nm) or self.sym
        try:
            source = Source(obj)
        except (OSError, TypeError, SyntaxError):
            return super()._repr_markdown_()
        link = f'[소스 · source]({home[2]}#L{inspect.getsourcelines(obj)[1]}){{.source}}\n\n' if isinstance(home, tuple) else ""
        return "\n\n".join(part for part in (
            f"{'#' * self.title_level} {self.nm} {{#{anchor(self.nm)} .symbol}}",
            link + f"```python\n{source.signature(self.nm)}\n```",
            ast.get_docstring(source.tree) or "",
            table(HEAD, grouped(self.nm, source.rows())),
            table(("메서드 · Method", "설명 · Details"), source.method_rows()),
        ) if part)


def grouped(name: str, rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The rows of parameters below the headings that `nbs/descriptions.yml` gives them; the others stand last."""
    groups = translations().get("groups", {}).get(name, {})
    by_name = {html.unescape(re.sub("<.*?>", "", row[0])): row for row in rows}
    below = [row for title, names in groups.items()
             for row in ((f"**{title}**", "", "", ""), *(by_name.pop(parameter) for parameter in names))]
    return below + list(by_name.values())


def anchor(name: str) -> str:
    """nbdev's, the name in small letters; a class beside a function of that name (`Plan`, `plan`) needs one of its own."""
    own, twin = NbdevLookup()[name], NbdevLookup()[name.lower()]
    return name.lower() + ("-class" if own and twin and name != name.lower() and own[1] == twin[1] else "")


def home_of(home, name: str):
    """The package's own object of that name, by nbdev's index; None where the index does not know it."""
    if not isinstance(home, tuple):
        return None
    found = import_module(module_of(home))
    for part in name.split("."):
        found = getattr(found, part, None)
    return None if isinstance(found, ModuleType) else found


def prefer_public() -> None:
    """A name that several modules have leads to the one that users call: nbdev's index takes the first of the alphabet."""
    package, table = import_module("transferlit"), NbdevLookup().syms
    for name in package.__all__:
        whole = f"{getattr(package, name).__module__}.{name}"
        if whole in table:
            table[name] = table[whole]


def home_like(twin, name: str):
    """The entry of nbdev's index for what a notebook ran: of several modules with that name, the one that says the same."""
    table = NbdevLookup().syms
    for whole, home in table.items():
        if whole == f"{module_of(home)}.{name}" and says(home_of(home, name)) == says(twin):
            return home
    return table.get(name)


def module_of(home: tuple) -> str:
    return home[1].removesuffix(".py").replace("/", ".") if isinstance(home, tuple) else ""


def says(found) -> tuple:
    try:
        called = str(inspect.signature(found))
    except (TypeError, ValueError):
        called = None
    return type(found), called, inspect.getdoc(found)


def line_of(name: str) -> int:
    found = home_of(NbdevLookup()[name], name)
    return inspect.getsourcelines(found)[1] if found else 0


class InOrder(Processor):
    """Puts reference blocks in the order of the source, and before it: nbdev turns several of one cell around."""

    def begin(self):
        cells, self.nb.cells = self.nb.cells, []
        for belongs, run in groupby(cells, key=lambda c: bool(self.names(c))):
            self.nb.cells += sorted(run, key=lambda c: line_of(self.names(c)[-1]) + (not self.is_block(c)) / 2) if belongs else run

    def is_block(self, cell) -> bool:
        return bool(getattr(cell, "has_sd", False))

    def names(self, cell) -> list[str]:
        if self.is_block(cell):
            return re.findall(r"^show_doc\(([\w.]+)\)", cell.source, re.M)
        source = cell.source if "exports" in (getattr(cell, "directives_", None) or {}) else ""
        return re.findall(r"^(?:def|class) ([A-Za-z]\w*)", source, re.M)


KINDS = {"NOTE": ("참고", "Note"), "TIP": ("도움말", "Tip"), "IMPORTANT": ("중요", "Important"),
         "WARNING": ("경고", "Warning"), "CAUTION": ("주의", "Caution")}
# In a notebook a kind stands in bold, in one language or both: Jupyter shows it as people read it.
BOLD = re.compile(r"^> *\*\*([^*\n]+)\*\*[ ]*\n(?:> *\n)?(?=>)", re.M)
WORDS = {word: kind for kind, pair in KINDS.items() for word in (*pair, " · ".join(pair))}
CALLOUT = re.compile(r"^> *\[!(\w+)\] *(.*)\n((?:^>.*(?:\n|\Z))*)", re.M)


def marked(text: str) -> str:
    """`> **Note**` as GitHub's `> [!NOTE]`; other bold words stay."""
    return BOLD.sub(lambda m: f"> [!{WORDS[m[1]]}]\n" if m[1] in WORDS else m[0], text)


class Callouts(Processor):
    """`> **Note**` and `> [!NOTE]` in the form that Quarto reads."""

    def cell(self, cell):
        if cell.cell_type == "markdown":
            lang = self.language(cell.source)
            cell.source = CALLOUT.sub(lambda m: self.fenced(m, lang), marked(cell.source))

    @staticmethod
    def language(text: str) -> str | None:
        found = re.match(r'<div lang="(ko|en)">', text)
        return found and found[1]

    @staticmethod
    def title(match: re.Match, lang: str | None) -> str:
        if match[1].upper() not in KINDS:
            raise ValueError(f"A callout must be one of {', '.join(KINDS)}. Received: [!{match[1]}].")
        korean, english = KINDS[match[1].upper()]
        return match[2].strip() or {"ko": korean, "en": english}.get(lang, f"{korean} · {english}")

    def fenced(self, match: re.Match, lang: str | None) -> str:
        title = html.escape(self.title(match, lang))
        body = re.sub(r"^> ?", "", match[3], flags=re.M).strip()
        return f'::: {{.callout-{match[1].lower()} title="{title}"}}\n{body}\n:::\n'


NAMED = re.compile(r"(?<!\[)`tl\.(\w+)((?:\([^`]*)?)`")
TWICE = re.compile(r"\[\[(`\w+`)\]\([^)\s]*\)\](?=\()")


class Named(Processor):
    """`tl.freeze` in prose leads to its page, as `freeze` does; nbdev knows the latter only.

    nbdev puts a link into the text of a link, too: that one goes, the one that was written stays.
    """

    def cell(self, cell):
        if cell.cell_type == "markdown":
            cell.source = "".join(line if line.startswith("#") else TWICE.sub(r"[\1]", NAMED.sub(self.linked, line))
                                  for line in cell.source.splitlines(keepends=True))

    def linked(self, match: re.Match) -> str:
        home = NbdevLookup()[match[1]]
        return f"[{match[0]}]({home[0]})" if isinstance(home, tuple) else match[0]


def translations() -> dict:
    """What `nbs/descriptions.yml` says: Korean `lines` below the titles of modules, and the `words` people search by."""
    return read_descriptions(get_config().nbs_path / "descriptions.yml")


@functools.cache  # every page asks
def read_descriptions(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {"lines": {}, "words": {}}


def place(path: str | Path) -> str:
    """Where a notebook is below nbs/."""
    return Path(path).resolve().relative_to(get_config().nbs_path.resolve()).as_posix()


KOREAN = re.compile(r"^> (.*[가-힣].*)$", re.M)


def korean_line(path: Path) -> str:
    """What a notebook's title cell says in Korean below the title, or else `nbs/descriptions.yml`."""
    found = KOREAN.search(read_nb(path).cells[0].source)
    return found[1] if found else translations()["lines"].get(place(path).removesuffix(".ipynb"), "")


class Described(Processor):
    """The line below the title in both languages."""

    def begin(self):
        line, first = korean_line(Path(self.nb.path_)), self.nb.cells[0]
        if line and first.cell_type == "raw":
            front = yaml.safe_load(first.source.strip().strip("-"))
            front["description"] = f"{line} · {front.get('description', '')}".removesuffix(" · ")
            first.source = f"---\n{yaml.dump(front, allow_unicode=True, width=10_000)}---\n\n"


class Origin(Processor):
    """Says below the title which notebook the page is made from, and where it can be run and had."""

    def begin(self):
        config, name = get_config(), place(self.nb.path_)
        where = f"{config.branch}/{config.nbs_path.name}/{name}"
        repo = config.git_url.removeprefix("https://github.com/")
        links = {"노트북 · Notebook": f"{config.git_url}/blob/{where}", f"`{name}`": f"{config.git_url}/blob/{where}",
                 "Colab에서 열기 · Open in Colab": f"https://colab.research.google.com/github/{repo}/blob/{where}",
                 "내려받기 · Download": f"https://raw.githubusercontent.com/{repo}/{where}"}
        line = " ".join(f"[{text}]({url}){{.notebook}}" for text, url in links.items())
        self.nb.cells.insert(1, mk_cell(line, "markdown"))  # the title is the first


def fold_title(cell):
    """The line above exported source, in both languages as every other label."""
    if cell.cell_type == "code":
        cell.source = cell.source.replace('#| code-summary: "Exported source"', '#| code-summary: "소스 · Source"', 1)


CHECKS = re.compile(r"(?:test_\w+|expect_fail|throws)$")


def is_check(node: ast.AST) -> bool:
    """Whether a statement, or one inside it, asserts something."""
    called = [n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    return any(map(CHECKS.match, called)) or any(isinstance(n, ast.Assert) for n in ast.walk(node))


def only_checks(cell) -> bool:
    """Whether a reader would see nothing of a cell but that it asserts: it shows nothing, and defines nothing."""
    if cell.cell_type != "code" or cell.get("outputs"):
        return False
    try:
        statements = ast.parse(cell.source).body
    except SyntaxError:  # what IPython alone can read
        return False
    return any(map(is_check, statements)) and not any(isinstance(s, (ast.FunctionDef, ast.ClassDef)) for s in statements)


def fold_checks(cell):
    """Folds what only asserts: it is the tests' business first, and a reader's on demand."""
    directed = getattr(cell, "directives_", None) or {}
    if only_checks(cell) and not {"code-fold", "exports", "export", "hide"} & set(directed):
        cell.source = f'#| code-summary: "확인 · Check"\n#| code-fold: true\n{cell.source}'
