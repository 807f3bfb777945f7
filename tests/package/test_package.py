"""The package as a user gets it: light to import, whole in a wheel, its facts the same in each place."""
import ast
import configparser
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


# Without the folders that a caller lends: what is installed must do.
ENV = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"TF_CPP_MIN_LOG_LEVEL": "3"}


def python(code, executable=None):
    """What `code` prints, by an interpreter that has the package installed, or by this one with the checkout's."""
    env = ENV if executable else ENV | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([executable or sys.executable, "-c", code], capture_output=True, text=True, timeout=600, cwd="/", env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_import_is_light():
    heavy = python("import sys, transferlit; print([m for m in ('tensorflow', 'keras', 'numpy', 'matplotlib', 'h5py') if m in sys.modules])")
    assert heavy.strip() == "[]"


@pytest.mark.parametrize("module", ["formats", "features.ray_dataset"])
def test_what_reads_rows_and_files_only_imports_no_keras(module):
    """Many processes of a cluster import the second."""
    heavy = python(f"import sys, transferlit.{module}; print([m for m in ('tensorflow', 'keras', 'h5py', 'torch') if m in sys.modules])")
    assert heavy.strip() == "[]"


def test_every_public_name_is_there():
    assert python("import transferlit as tl; print([n for n in tl.__all__ if not callable(getattr(tl, n))])").strip() == "[]"


def test_unknown_name_is_an_attribute_error():
    assert "AttributeError" in python("import transferlit\ntry: transferlit.nothing\nexcept AttributeError as e: print(repr(e))")


def modules(root):
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix == ".py" or p.name == "py.typed"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What git holds of the package, nothing built, and a package inside it whatever the package holds today."""
    root = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "settings.ini", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "transferlit", root / "transferlit", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "transferlit" / "inner" / "deep").mkdir(parents=True)
    for name in ("inner/__init__.py", "inner/deep/__init__.py", "inner/deep/module.py"):
        (root / "transferlit" / name).write_text("here = __file__\n")
    return root


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory):
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    folder = tmp_path_factory.mktemp("sdist")
    subprocess.run([sys.executable, "-c", code, folder], cwd=source, check=True, capture_output=True)
    made, = folder.glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Built from the source distribution alone, by the setuptools that is here: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", folder, sdist]
    subprocess.run(pip, check=True, capture_output=True)
    made, = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def wheel_python(wheel, tmp_path_factory):
    """A fresh environment with the wheel in it; what it depends on is found where this interpreter has it."""
    env = tmp_path_factory.mktemp("installed") / "env"
    venv.create(env, with_pip=False)
    site, = env.glob("lib/python*/site-packages")
    (site / "here.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")) + "\n")
    made = str(env / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", made, "install", "-q", "--no-index", "--no-deps", "--ignore-installed", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    return made


def test_source_distribution_holds_what_its_build_reads(source, sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "settings.ini", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"} <= names
    assert {f"transferlit/{name}" for name in modules(source / "transferlit")} <= names


def test_wheel_from_the_source_distribution_holds_every_module(source, wheel):
    names = {name.removeprefix("transferlit/") for name in zipfile.ZipFile(wheel).namelist() if name.startswith("transferlit/")}
    assert names == modules(source / "transferlit")
    assert {"py.typed", "inner/deep/module.py"} <= names


def test_wheel_says_what_an_index_shows(wheel):
    archive = zipfile.ZipFile(wheel)
    name, = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    said = email.message_from_bytes(archive.read(name))
    tested = {f"Programming Language :: Python :: {v}" for v in ("3.11", "3.12", "3.13")}
    assert tested | {"Operating System :: OS Independent"} <= set(said.get_all("Classifier"))
    assert "Apache-2.0" in (said["License"], said["License-Expression"])
    assert not any(c.startswith("License ::") for c in said.get_all("Classifier")), "refused beside an SPDX expression"
    assert said["Description-Content-Type"] == "text/markdown" and said.get_payload(decode=True).startswith(b"# transferlit\n")
    assert all(url.partition(", ")[2].startswith("https://") for url in said.get_all("Project-URL"))


def test_wheel_runs_without_the_checkout(wheel_python):
    where = python("import transferlit.paths as a, transferlit.inner.deep.module as b; print(a.__file__); print(b.here)", wheel_python)
    assert all(line.startswith(str(Path(wheel_python).parents[1])) for line in where.splitlines())


def test_readme_lines_run_from_the_wheel(wheel_python, tmp_path):
    lines = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)[1]
    assert sum(map(bool, lines.splitlines())) <= 10 and all(f"tl.{name}(" in lines for name in ("save", "restore", "freeze", "fit"))
    lines = lines.replace("epochs=5", "epochs=1")
    python(f"import os; os.chdir({str(tmp_path)!r})\n{lines}", wheel_python)


def test_command_runs_from_the_wheel(wheel_python):
    command = Path(wheel_python).with_name("transferlit")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=300, cwd="/", env=ENV)
    assert done.returncode == 0 and "demo" in done.stdout and "peek" in done.stdout, done.stderr[-3000:]


def test_commands_leave_the_log_of_tensorflow_out(tmp_path):
    """`convert` reads a Keras file; its user sees what it holds and nothing else, whatever the machine is."""
    import keras  # other tests of this process have, most often
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "net.keras")
    env = {k: v for k, v in ENV.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | {"PYTHONPATH": str(ROOT)}
    code = "import sys; sys.argv = ['transferlit', 'convert', 'net.keras', 'net.npz']; from transferlit.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "") and "2 variables" in done.stdout


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


READERS = sorted([*(ROOT / "nbs").glob("*.ipynb"), *(ROOT / "nbs" / "guides").glob("*.ipynb")])

# What one notebook needs beyond that, and says so on its page.
ELSEWHERE = {"60_many_machines": {"ray", "fsspec"}, "30_sharing": {"huggingface_hub"}, "50_backbones": {"keras_hub"}}


def code_of(notebook):
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def packages_of(source):
    """What a cell imports whether or not it is there; an import inside `try` is a choice."""
    tree = ast.parse(source)
    tried = {id(node) for outer in ast.walk(tree) if isinstance(outer, ast.Try) for node in ast.walk(outer)}
    nodes = [node for node in ast.walk(tree) if id(node) not in tried]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("notebook", READERS, ids=lambda path: path.stem)
def test_a_readers_notebook_needs_only_what_the_extra_brings(notebook):
    """`pip install "transferlit[notebooks]"` is enough for the article and the guides."""
    ini = configparser.ConfigParser(delimiters=["="], interpolation=None)
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    facts = ini["DEFAULT"]
    wanted = f"{facts['requirements']} {facts['notebooks_requirements']}".split()
    brought = {re.match(r"[\w-]+", name)[0] for name in wanted}
    brought |= {"transferlit", "IPython", "ml_dtypes"} | sys.stdlib_module_names  # the last by Keras
    cells = [code for code in code_of(notebook) if "eval: false" not in code]
    assert set().union(*map(packages_of, cells)) - brought - ELSEWHERE.get(notebook.stem, set()) == set()


@pytest.mark.parametrize("notebook", READERS, ids=lambda path: path.stem)
def test_a_readers_notebook_reaches_for_no_file_of_the_checkout(notebook):
    assert [code for code in code_of(notebook) if re.search(r"['\"/]\.\./(tests|tools)", code)] == []


@pytest.mark.parametrize("notebook", ["guides/70_recipes.ipynb", "guides/80_tf1_to_keras3.ipynb"])
def test_notebook_runs_from_the_wheel_in_a_folder_of_its_own(notebook, wheel_python, tmp_path):
    pytest.importorskip("IPython", reason="IPython is not installed: pip install -e .[dev]")
    alone = shutil.copy(ROOT / "nbs" / notebook, tmp_path)
    env = ENV | {"MPLBACKEND": "agg", "IPYTHONDIR": str(tmp_path / "ipython")}
    command = [wheel_python, "-m", "IPython", "--colors=NoColor", alone]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "Traceback" not in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
