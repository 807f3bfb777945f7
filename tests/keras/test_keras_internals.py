"""What the package takes from Keras beyond its public names is there in the Keras that is installed."""
import ast
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


# Private attributes of objects that Keras made, by what the package reads them from.
SUBJECTS = {"model", "optimizer", "layer", "part", "variable", "self.model", "graph"}


@pytest.mark.parametrize("module", sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py")))
def test_private_names_are_listed(module):
    known = {one.name for one in INTERNALS}
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    own = {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    used = {
        node.attr for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        and ast.unparse(node.value) in SUBJECTS
    }
    assert used - own <= known, f"private names of Keras that `keras_internals` does not list: {sorted(used - own - known)}"


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
