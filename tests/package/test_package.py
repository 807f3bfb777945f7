"""The package as a user gets it: light to import, whole in a wheel, its facts the same in each place."""
import configparser
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def python(code, executable=sys.executable, **env):
    done = subprocess.run([executable, "-c", code], capture_output=True, text=True, timeout=600, cwd="/",
                          env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **env})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_import_is_light():
    heavy = python("import sys, transferlit; print([m for m in ('tensorflow', 'keras', 'numpy', 'matplotlib', 'h5py') if m in sys.modules])")
    assert heavy.strip() == "[]"


def test_every_public_name_is_there():
    assert python("import transferlit as tl; print([n for n in tl.__all__ if not callable(getattr(tl, n))])").strip() == "[]"


def test_unknown_name_is_an_attribute_error():
    assert "AttributeError" in python("import transferlit\ntry: transferlit.nothing\nexcept AttributeError as e: print(repr(e))")


@pytest.fixture(scope="module")
def wheel_python(tmp_path_factory):
    """A fresh environment with the wheel in it; what it depends on is taken from here, to spare the download."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
    wheel, = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    site, = (folder / "env").glob("lib/python*/site-packages")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel], check=True)
    return str(folder / "env" / "bin" / "python")


def test_wheel_runs_without_the_checkout(wheel_python):
    where = python("import transferlit, transferlit.paths as p, os; print(os.path.exists(os.path.join(os.path.dirname(p.__file__), 'py.typed')), p.__file__)",
                   wheel_python, PYTHONPATH=sysconfig.get_paths()["purelib"])
    assert where.startswith("True") and str(ROOT) not in where


def test_readme_lines_run_from_the_wheel(wheel_python, tmp_path):
    lines = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)[1]
    assert sum(map(bool, lines.splitlines())) <= 10 and all(f"tl.{name}(" in lines for name in ("save", "restore", "freeze", "fit"))
    lines = lines.replace("epochs=5", "epochs=1")
    python(f"import os; os.chdir({str(tmp_path)!r})\n{lines}", wheel_python, PYTHONPATH=sysconfig.get_paths()["purelib"])


def test_command_runs_from_the_wheel(wheel_python):
    command, = Path(wheel_python).parents[1].glob("lib/python*/site-packages/bin/transferlit")
    env = {**os.environ, "PYTHONPATH": sysconfig.get_paths()["purelib"], "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([wheel_python, command, "--help"], capture_output=True, text=True, timeout=300, cwd="/", env=env)
    assert done.returncode == 0 and "demo" in done.stdout and "peek" in done.stdout, done.stderr[-3000:]


def test_facts_agree():
    ini = configparser.ConfigParser(delimiters=["="], interpolation=None)
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    ini, toml = ini["DEFAULT"], tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project, tool = toml["project"], toml["tool"]["nbdev"]
    assert project["name"] == ini["lib_name"] and project["requires-python"] == ">=" + ini["min_python"]
    assert "version" in project["dynamic"] and "dependencies" not in project
    assert project.get("description", ini["description"]) == ini["description"]
    shared = {key: " ".join(value) if isinstance(value, list) else str(value) for key, value in tool.items() if key in ini}
    assert {"lib_path", "nbs_path", "doc_path", "tst_flags"} <= set(shared)
    assert {k: v.lower() for k, v in shared.items()} == {k: ini[k].lower() for k in shared}
    assert f'__version__ = "{ini["version"]}"' in (ROOT / "transferlit" / "__init__.py").read_text("utf-8")
    pinned = [r for r in ini["dev_requirements"].split() if r.startswith("nbdev")]
    assert pinned and re.fullmatch(r"nbdev==3\.3\.\d+", pinned[0])
