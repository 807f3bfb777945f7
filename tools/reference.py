"""The page of all public names by their module, made from the package; `tools/docs.py` writes it among the others."""
from importlib import import_module
from itertools import groupby

from nbdev.doclinks import NbdevLookup
from pages import Source, cell, home_of

HEAD = """---
title: "참고 · Reference"
description: "Every public function of transferlit by its module, in one line each."
---
"""
ROW = "| 이름 · Name | 설명 · Details |\n|---|---|\n"


def reference() -> str:
    """What `import transferlit` offers, module by module, each name with its line and a link to its page."""
    homes = import_module("transferlit")._HOME
    modules = groupby(sorted(homes, key=lambda name: (homes[name], name.lower())), key=homes.get)
    return HEAD + "".join(f"\n## `transferlit.{module}`\n\n{ROW}{''.join(map(row, names))}" for module, names in modules)


def row(name: str) -> str:
    home = NbdevLookup()[name]
    said = Source(home_of(home, name)).summary()
    return f"| [`{name}`]({home[0]}) | {cell(said)} |\n"
