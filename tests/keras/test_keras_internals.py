"""What the package takes from Keras beyond its public names is there in the Keras that is installed."""
import ast
import re
from functools import lru_cache
from pathlib import Path

import keras
import numpy as np
import pytest

from transferlit.keras_internals import INTERNALS, draws_by_epoch, internals, missing, numbers_by_epoch, shows_sizes

PACKAGE = Path(__file__).parents[2] / "transferlit"


def test_no_name_in_use_is_missing():
    gone = [f"{one.owner}.{one.name} ({one.use})" for one in missing()]
    assert not gone, f"Keras {keras.__version__} no longer has: {', '.join(gone)}"


def test_a_name_that_is_gone_is_said(monkeypatch):
    class Bare:
        pass

    monkeypatch.setattr("transferlit.keras_internals._owners", lambda: dict.fromkeys(
        {one.owner for one in INTERNALS}, Bare()))
    assert missing() == [one for one in INTERNALS if one.needed] and len(internals()) == len(INTERNALS)


def test_one_module_alone_imports_the_source_of_keras():
    imports = []
    for path in (p for p in PACKAGE.rglob("*.py") if p.name != "keras_internals.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imports += [f"{path.name}: {name}" for name in names if name.startswith(("keras.src", "keras._"))]
    assert not imports


@lru_cache
def _trees():
    return {p.relative_to(PACKAGE).as_posix(): ast.parse(p.read_text(encoding="utf-8"))
            for p in sorted(PACKAGE.rglob("*.py")) if p.name != "_modidx.py"}


def _private(tree):
    return {n.attr: n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr.startswith("_") and not n.attr.startswith("__")}


@lru_cache
def _own():
    "Private names that the package itself defines."
    kinds = ast.FunctionDef, ast.ClassDef
    nodes = [n for tree in _trees().values() for n in ast.walk(tree)]
    stored = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and ast.unparse(n.value) == "self"}
    return stored | {n.name for n in nodes if isinstance(n, kinds)}


@lru_cache
def _of_keras():
    "Private attributes that Keras gives its objects."
    found = set()
    for path in Path(keras.__file__).parent.joinpath("src").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"self\.(_[a-z]\w*)", source)) | set(re.findall(r"def (_[a-z]\w*)\(self", source))
    return found


@pytest.mark.parametrize("module", _trees())
def test_private_names_are_listed(module):
    known = {one.name for one in INTERNALS} | {"_inputs", "_functions"}  # those are of TensorFlow's datasets
    used = {name: node for name, node in _private(_trees()[module]).items() if name in _of_keras() - _own() - known}
    assert not used, f"private names of Keras that `keras_internals` does not list: {[ast.unparse(n) for n in used.values()]}"


def test_sizes_show_as_said():
    seen = []

    def loss(y, out):
        seen.append(out.shape[0])
        return keras.ops.mean(keras.ops.square(y - out))

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss)
    model.fit(np.ones((7, 2)), np.ones((7, 1)), batch_size=5, verbose=0)
    assert (5 in seen) == shows_sizes()


@pytest.mark.parametrize("shuffle", [True, "batch"])
def test_epochs_decide_on_the_order_as_said(shuffle):
    class Recording(keras.Model):
        def train_step(self, data):
            taken.append(np.array(data[0])[:, 0])
            return {"seen": keras.ops.mean(data[0])}

    def orders(seed):
        keras.utils.set_random_seed(seed)
        taken.clear()
        inputs = keras.Input((1,))
        model = Recording(inputs, keras.layers.Dense(1)(inputs))
        model.compile("sgd", "mse", run_eagerly=True)
        model.fit(np.arange(12.)[:, None], np.ones((12, 1)), batch_size=5, epochs=2, shuffle=shuffle, verbose=0)
        return np.reshape(np.concatenate(taken), (2, 12))

    taken = []
    one, other = orders(1), orders(2)
    assert np.array_equal(one, other) == draws_by_epoch()
    if draws_by_epoch():
        ours = numbers_by_epoch(12, 5, shuffle)
        np.testing.assert_array_equal(one, [next(ours), next(ours)])
