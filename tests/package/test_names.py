"""What editors, type checkers and `help` see of the package agrees with what it has."""
import ast
import inspect
from pathlib import Path

import transferlit as tl

INIT = ast.parse(Path(tl.__file__).read_text("utf-8"))


def test_type_checkers_see_the_public_names():
    checked = next(n for n in INIT.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING")
    imports = [n for n in checked.body if isinstance(n, ast.ImportFrom)]
    assert {a.asname: n.module for n in imports for a in n.names} == tl._HOME
    assert all(a.name == a.asname for n in imports for a in n.names)  # the form that re-exports
    hidden = [n.name for n in ast.walk(ast.Module(checked.orelse, [])) if isinstance(n, ast.FunctionDef)]
    assert "__getattr__" in hidden  # where a type checker saw it, any name would be right
    assert Path(tl.__file__).with_name("py.typed").exists()


def test_help_explains_each_parameter():
    for name in tl.__all__:
        function = getattr(tl, name)
        if inspect.isfunction(function):
            said = inspect.getdoc(function).partition("Parameters\n")[2]
            assert all(parameter in said for parameter in inspect.signature(function).parameters), name


def test_names_are_there_and_listed():
    assert set(tl.__all__) <= set(dir(tl))
    assert all(getattr(tl, name).__name__ == name for name in tl.__all__)
