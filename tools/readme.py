"""README.md from the index notebook, in the Markdown that GitHub and PyPI show; `tools/docs.py` writes it."""
import re
from pathlib import Path

from fastcore.nbio import read_nb
from nbdev.config import get_config, nbpath2html
from pages import CALLOUT, Callouts, marked

HIDDEN = {"default_exp", "export", "exporti", "hide"}  # directives of code cells that a reader does not see
LINK = re.compile(r"(!?)(\[[^\]]*\]\()(?!https?:|#|mailto:)([^)#\s]+)")


def readme(index: Path) -> str:
    """README.md from the index notebook: what a reader sees of it, as plain Markdown that leads to the site."""
    parts = []
    for cell in read_nb(index).cells:
        if cell.cell_type == "markdown":
            parts.append(plain(cell.source))
        elif cell.cell_type == "code" and not HIDDEN & cell.directives.keys():
            source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("#|"))
            parts += [f"```python\n{source}\n```"] if cell.directives.get("echo") != "false" else []
            parts += [shown(output) for output in cell.get("outputs", [])]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def plain(text: str) -> str:
    """Markdown without what only GitHub or the site reads: blocks of a language, kinds of callouts, near links."""
    lang = Callouts.language(text)
    text = CALLOUT.sub(lambda m: f"> **{Callouts.title(m, lang)}**\n>\n{m[3]}", marked(text))
    text = re.sub(r"^</?div[^>]*>\n*", "", text, flags=re.M)
    return LINK.sub(lambda m: f"{m[1]}{m[2]}{absolute(m[3], bool(m[1]))}", text)


def absolute(path: str, is_picture: bool) -> str:
    """Where a file beside the index is for somebody who has the README alone: its page, or the file on GitHub."""
    config = get_config()
    if path.endswith(".ipynb"):
        return f"{config.doc_host}{config.doc_baseurl}/{nbpath2html(path).as_posix()}"
    file = f"{config.branch}/{config.nbs_path.name}/{path}"
    repo = config.git_url.removeprefix("https://github.com/")
    return f"https://raw.githubusercontent.com/{repo}/{file}" if is_picture else f"{config.git_url}/blob/{file}"


def shown(output) -> str:
    """One stored output as Markdown; pictures stay on the page."""
    data = output.get("data", {})
    kind = next((k for k in ("text/markdown", "text/plain", "text/html") if k in data), None)
    if any(k.startswith("image/") for k in data) or (kind is None and "text" not in output):
        return ""
    text = "".join(data[kind] if kind else output["text"])
    return text if kind in ("text/markdown", "text/html") else f"```\n{text.rstrip()}\n```"
