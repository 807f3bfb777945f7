"""Run the notebooks as Jupyter would: as tests, or to refresh the outputs they keep.

    python tools/notebooks.py run [--save] [NOTEBOOK ...]
    python tools/notebooks.py bench [NOTEBOOK ...]
    python tools/notebooks.py check [NOTEBOOK ...]
    python tools/notebooks.py mend [NOTEBOOK ...]

`mend` puts in what a notebook needs to run in Colab, without TensorFlow's log, and to be read in one language, writes
callouts as Jupyter shows them, and folds in JupyterLab what the page folds or hides.

A notebook whose code reads `TRANSFERLIT_BENCH` has a long form, whose outputs it keeps: only `bench` stores them, or
`run --save` with that variable set to `full`. In its short form it runs as a test and leaves what is stored alone.
"""
from __future__ import annotations

import argparse
import atexit
import functools
import os
import re
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import nbformat
import numpy as np
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import clean_nb
from nbformat.v4 import new_code_cell

NBS = Path(__file__).resolve().parents[1] / "nbs"
# A reader's machine is not ours: no absolute path and no object address may stay in an output.
MACHINE = re.compile(r"(?<![\w.:/<])/(?:[\w.~-]+/)+[\w.~-]+| at 0x[0-9a-f]{6,}")
NOISE = re.compile(r"^(?:(?:INFO|WARNING):tensorflow|WARNING:absl|[IWE]0000 ).*\n*", re.M)
LONG = "TRANSFERLIT_BENCH"  # full: measure everything, and keep it
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def notebooks(names: list[str]) -> list[Path]:
    """Those named, or all of them in every folder; what begins with `_` or `.` is none of ours."""
    return [Path(n).resolve() for n in names] or sorted(p for p in NBS.rglob("*.ipynb") if not is_hidden(p))


def is_hidden(path: Path) -> bool:
    return any(part[0] in "_." for part in path.relative_to(NBS).parts)


def shown(path: Path) -> str:
    """A notebook as it is spoken of: by its place in nbs/."""
    return path.relative_to(NBS).as_posix() if path.is_relative_to(NBS) else path.name


def has_long_form(nb) -> bool:
    return any(LONG in c.source for c in nb.cells if c.cell_type == "code")


def is_skipped(cell) -> bool:
    return bool(re.search(r"^#\|\s*eval:\s*false\s*$", cell.source, re.M))


class Client(NotebookClient):
    """Leaves out the cells that say `#| eval: false`."""

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
        if cell.cell_type == "code" and is_skipped(cell):
            return cell
        return await super().async_execute_cell(cell, cell_index, *args, **kwargs)


def environment() -> dict[str, str]:
    """That of this process, quiet, with this checkout's package in front."""
    here = os.pathsep.join(filter(None, [str(NBS.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "PYTHONPATH": here}


TRAINING_ROWS, TEST_ROWS = 10_000, 2_000  # of each data set, where outputs are not stored


@functools.cache
def few_rows(folder: str) -> str:
    """A folder with the first rows of what lies in the one that `TRANSFERLIT_DATA` names: enough for a test."""
    few = tempfile.TemporaryDirectory()
    atexit.register(few.cleanup)
    for path in Path(folder).glob("*.npz"):
        with np.load(path) as arrays:
            kept = {n: a[: TRAINING_ROWS if n.endswith("train") else TEST_ROWS] for n, a in arrays.items()}
        np.savez(Path(few.name, path.name), **kept)
    return few.name


def last_state(text: str) -> str:
    """What a terminal shows in the end: progress that a carriage return wrote over is gone."""
    text = NOISE.sub("", ESCAPES.sub("", text))
    return "\n".join(re.split(r"[\r\b]+", line.rstrip("\r\b"))[-1].rstrip() for line in text.split("\n"))


def joined(outputs: list) -> list:
    """What is written piece by piece is one text: a bar that is wiped in the end leaves nothing."""
    found = []
    for output in outputs:
        before = found[-1] if found else {}
        if output.output_type == "stream" and before.get("name") == output.name:
            before.text += output.text
        else:
            found.append(output)
    return found


def tidy(nb) -> None:
    """Drop what a reader does not want stored: warnings on stderr, progress, execution counts."""
    for cell in (c for c in nb.cells if c.cell_type == "code"):
        cell.outputs = joined(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = last_state(output.text)
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and (o.get("text", "-").strip())]
    clean_nb(nb, allowed_cell_metadata_keys=["jupyter"])


def write(nb, path: Path) -> None:
    text = nbformat.writes(nb, indent=1, sort_keys=True, ensure_ascii=False)
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def stores(nb, path: Path) -> bool:
    """Whether this run's outputs are those that the notebook keeps; says so where they are not."""
    kept = has_long_form(nb) and os.environ.get(LONG) != "full"
    if kept:
        print(f"{shown(path)}: the outputs of its long form are kept (`make bench` makes them anew)")
    return not kept


WARM = Path(__file__).with_name("warm_kernels.py")


@functools.cache
def warm_socket() -> str:
    """Where kernels are forked from a process that imported TensorFlow once; it ends with this one."""
    folder = tempfile.TemporaryDirectory()
    path, env = f"{folder.name}/socket", {**environment(), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    server = subprocess.Popen([sys.executable, WARM, "serve", path], stdin=subprocess.PIPE, env=env)
    atexit.register(lambda: (server.communicate(), folder.cleanup()))
    while not os.path.exists(path):
        if server.poll() is not None:
            raise RuntimeError("the process that kernels are forked from did not start")
        time.sleep(0.05)
    return path


class WarmManager(AsyncKernelManager):
    """Starts kernels by a launcher that asks for a fork."""

    @property
    def kernel_spec(self):
        argv = [sys.executable, "-S", str(WARM), "launch", warm_socket(), "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


def run(path: Path, save: bool = False, timeout: int = 1800) -> float:
    """Execute one notebook in a kernel of its own, in its own folder; raises at the first cell that fails."""
    nb, start, env = nbformat.read(path, as_version=4), time.time(), environment()
    if not save and "TRANSFERLIT_DATA" in env:
        env["TRANSFERLIT_DATA"] = few_rows(env["TRANSFERLIT_DATA"])
    manager = {"kernel_manager_class": WarmManager} if hasattr(os, "fork") else {}
    for last in (False, True):
        client = Client(nb, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}, **manager)
        try:
            client.execute(env=env)
            break
        except RuntimeError as error:
            # Two kernels that start at once may have drawn one port; no cell has run then.
            if last or "before replying" not in str(error):
                raise
    if save and stores(nb, path):
        tidy(nb)
        write(nb, path)
    return time.time() - start


def texts(output):
    if "text" in output:
        yield output["text"]
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/") or kind.endswith("+xml"):
            yield value if isinstance(value, str) else "".join(value)


def faults(path: Path) -> list[str]:
    """What keeps a notebook from being clean: metadata, noise, paths of a machine, unfinished outputs."""
    nb = nbformat.read(path, as_version=4)
    before, found = nbformat.writes(nb, sort_keys=True), []
    clean_nb(nb, allowed_cell_metadata_keys=["jupyter"])
    if before != nbformat.writes(nb, sort_keys=True):
        found.append("metadata or execution counts are left (run `nbdev-clean`)")
    if lacks_start(nb, path) or any(GITHUB.search(c.source) for c in nb.cells if c.cell_type == "markdown"):
        found.append("no cells that install in Colab, import TensorFlow quietly and choose a language, or a callout that Jupyter can't show (run `python tools/notebooks.py mend`)")
    if unfolded(nb, path):
        found.append("JupyterLab shows cells that the page hides or folds (run `python tools/notebooks.py mend`)")
    for number, cell in enumerate(nb.cells):
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {number}: an error or stderr output is stored")
            found += [f"cell {number}: output names this machine: {m[0]}" for t in texts(output) for m in MACHINE.finditer(t)]
    return found


# The article and the guides run outside a checkout too; Colab alone installs, and nothing else reaches the network.
COLAB = """#| hide
if 'google.colab' in str(get_ipython()):
    get_ipython().run_line_magic('pip', 'install -q "transferlit[notebooks]"')"""
# TensorFlow's log would be the first thing that a reader sees, in red.
QUIET = """#| hide
from transferlit.quiet import load_tensorflow

load_tensorflow()"""
# The one cell of these that Jupyter shows: a reader of one language finds here how to hide the other.
LANGUAGE = """#| hide
# 한국어만 읽으려면 · To read English only: remove the # of its line, and run the cell
# from transferlit.quiet import show_language; show_language('ko')
# from transferlit.quiet import show_language; show_language('en')"""
START = [COLAB, QUIET, LANGUAGE]
FOLDED = re.compile(r"^#\|\s*(?:hide|default_exp .*|code-fold:\s*true|echo:\s*false)\s*$|^#\| export\nfrom __future__ ", re.M)
GITHUB = re.compile(r"^> *\[!(NOTE|TIP|IMPORTANT|WARNING|CAUTION)\] *\n", re.M)
KINDS = {"NOTE": "참고 · Note", "TIP": "도움말 · Tip", "IMPORTANT": "중요 · Important", "WARNING": "경고 · Warning", "CAUTION": "주의 · Caution"}


def is_for_readers(path: Path) -> bool:
    """The article, its opening page and the guides: what people run elsewhere."""
    return path.is_relative_to(NBS) and path.parent in (NBS, NBS / "guides")


def lacks_start(nb, path: Path) -> bool:
    """Whether the cells that install in Colab, keep TensorFlow quiet and choose a language are not where they belong."""
    return is_for_readers(path) and [c.source for c in nb.cells[1 : 1 + len(START)]] != START


def put_start(nb, path: Path) -> None:
    nb.cells = [c for c in nb.cells if c.source not in START]
    for text in reversed(START):
        name = zlib.crc32((shown(path) + text * (text != COLAB)).encode())
        nb.cells.insert(1, new_code_cell(text, id=f"{name:08x}"))


def unfolded(nb, path: Path) -> list:
    """The cells for readers that a page hides or folds, and JupyterLab does not."""
    code = [c for c in nb.cells if c.cell_type == "code" and is_for_readers(path) and c.source != LANGUAGE]
    return [c for c in code if FOLDED.search(c.source) and not c.metadata.get("jupyter", {}).get("source_hidden")]


def fold(nb, path: Path) -> None:
    """Let JupyterLab fold what a page hides or folds."""
    for cell in unfolded(nb, path):
        cell.metadata["jupyter"] = {"source_hidden": True}


def plainly(text: str) -> str:
    """GitHub's callouts, which Jupyter shows as `[!NOTE]`, with their kind as a word of the cell's language."""
    lang = re.match(r'<div lang="(ko|en)">', text)

    def word(match: re.Match) -> str:
        korean, english = KINDS[match[1]].split(" · ")
        return f"> **{dict(ko=korean, en=english)[lang[1]] if lang else KINDS[match[1]]}**\n>\n"
    return GITHUB.sub(word, text)


def mend(path: Path) -> None:
    nb = nbformat.read(path, as_version=4)
    if lacks_start(nb, path):
        put_start(nb, path)
    fold(nb, path)
    for cell in (c for c in nb.cells if c.cell_type == "markdown"):
        cell.source = plainly(cell.source)
    write(nb, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["run", "bench", "check", "mend"])
    parser.add_argument("notebooks", nargs="*")
    parser.add_argument("--save", action="store_true", help="store the outputs in the notebook")
    args, bad = parser.parse_intermixed_args(), 0
    paths, save = notebooks(args.notebooks), args.save or args.verb == "bench"
    if args.verb == "bench":
        os.environ[LONG] = "full"
        paths = [path for path in paths if has_long_form(nbformat.read(path, as_version=4))]
    for path in paths:
        if args.verb == "mend":
            mend(path)
            continue
        if args.verb == "check":
            found = faults(path)
            bad += bool(found)
            print(f"{shown(path)}: {'clean' if not found else '; '.join(found)}")
            continue
        try:
            print(f"{shown(path)}: {run(path, save):.1f} s", flush=True)
        except CellExecutionError as error:
            bad += 1
            print(f"{shown(path)}: failed\n{ESCAPES.sub('', str(error))}", file=sys.stderr, flush=True)
    return bool(bad)


if __name__ == "__main__":
    raise SystemExit(main())
