"""README.md from the index notebook, in the Markdown that GitHub and PyPI show; `tools/docs.py` writes it."""
import re
from pathlib import Path

from fastcore.nbio import read_nb

HIDDEN = {"default_exp", "export", "exporti", "hide"}  # directives of code cells that a reader does not see


def readme(index: Path) -> str:
    """README.md from the index notebook: what a reader sees of it, in the Markdown that GitHub shows."""
    parts = []
    for cell in read_nb(index).cells:
        if cell.cell_type == "markdown":
            parts.append(re.sub(r"(\]\()(?!https?:|#|mailto:)", rf"\1{index.parent.name}/", cell.source))
        elif cell.cell_type == "code" and not HIDDEN & cell.directives.keys():
            source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("#|"))
            parts += [f"```python\n{source}\n```"] if cell.directives.get("echo") != "false" else []
            parts += [shown(output) for output in cell.get("outputs", [])]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def shown(output) -> str:
    """One stored output as Markdown; pictures stay on the page."""
    data = output.get("data", {})
    kind = next((k for k in ("text/markdown", "text/plain", "text/html") if k in data), None)
    if any(k.startswith("image/") for k in data) or (kind is None and "text" not in output):
        return ""
    text = "".join(data[kind] if kind else output["text"])
    return text if kind in ("text/markdown", "text/html") else f"```\n{text.rstrip()}\n```"
