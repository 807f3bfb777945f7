"""What must hold of the built site: every link and anchor leads somewhere, and nothing loads from outside.

    python tools/check_site.py [FOLDER]
"""
from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself; a plain `<a href>` is followed by the reader only.
LOADS = {"src", "srcset", "poster", "data", "xlink:href"}
CSS_URL = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")
SCRIPT_LOAD = re.compile(r"""\b(?:fetch|import|importScripts)\s*\(\s*['"`]((?:https?:)?//[^'"`]+)|\bfrom\s*['"]((?:https?:)?//[^'"]+)""")
CODE = {"pre", "code"}
MARK = re.compile(r".{,30}(?:\]\(|\*\*\w|^:::|\[!\w).{,30}", re.M)  # of Markdown that nobody has read


class Page(HTMLParser):
    """The ids of a page, its links, what it loads, and its text outside of code."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links, self.loads, self.raw, self.prose = [], [], [], "", ""
        self.code = 0  # how many elements deep in code
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if attrs.get("id") else []
        self.raw = tag if tag in ("style", "script") else ""
        self.code += tag in CODE
        self.loads += [attrs[name] for name in LOADS & attrs.keys() if attrs[name]]
        self.loads += css_urls(attrs.get("style") or "")
        if attrs.get("href"):
            (self.links if tag in ("a", "area") else self.loads).append(attrs["href"])

    def handle_data(self, data):
        self.loads += css_urls(data) if self.raw == "style" else script_urls(data) if self.raw == "script" else []
        self.prose += "" if self.raw or self.code else data

    def handle_endtag(self, tag):
        self.raw = ""
        self.code -= tag in CODE


def css_urls(text: str) -> list[str]:
    return [a or b for a, b in CSS_URL.findall(text)]


def script_urls(text: str) -> list[str]:
    return [a or b for a, b in SCRIPT_LOAD.findall(text)]


def is_outside(url: str) -> bool:
    return bool(urlsplit(url).netloc) or urlsplit(url).scheme not in ("", "data")


def faults(site: Path) -> list[str]:
    """One line for each fault of the site in `site`; none for a good one."""
    pages = {p.resolve(): Page(p.read_text(encoding="utf-8")) for p in sorted(site.rglob("*.html"))}
    if not pages:
        return [f"{site}: no pages"]
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        found += [f"{name}: two elements have the id {i!r}" for i in sorted({i for i in page.ids if page.ids.count(i) > 1})]
        found += [f"{name}: loads from outside: {url}" for url in page.loads if is_outside(url)]
        found += [f"{name}: Markdown shown raw: {mark}" for mark in MARK.findall(page.prose)]
        for url in [*page.links, *(u for u in page.loads if not is_outside(u))]:
            fault = broken(url, path, pages)
            found += [f"{name}: {fault}: {url}"] if fault else []
    for path in sorted(site.rglob("*.css")):
        for url in css_urls(path.read_text(encoding="utf-8")):
            if is_outside(url):
                found.append(f"{path.relative_to(site)}: loads from outside: {url}")
            elif not url.startswith(("data:", "#")) and not (path.parent / unquote(urlsplit(url).path)).is_file():
                found.append(f"{path.relative_to(site)}: no such file: {url}")
    return found


def broken(url: str, path: Path, pages: dict[Path, Page]) -> str:
    """Why `url`, met on the page at `path`, leads nowhere; empty where it does or is not ours."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return "" if parts.scheme in ("http", "https", "mailto", "data") else "a link of an unknown kind"
    if parts.path.startswith("/"):
        return "a link from the root, which no checkout has"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return "no such file"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
        return "no such anchor"
    return ""


def main() -> int:
    site = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "docs"
    found = faults(site)
    print("\n".join(found) or f"{site.name}: every link, anchor and load is good")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
