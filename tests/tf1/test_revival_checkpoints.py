"""Real old models from the wild: each is opened, revived natively and as a layer, and compared with what its own graph gave.

The set is a folder named by TRANSFERLIT_CHECKPOINTS: `manifest.json`, the files, and `truth/` with an input and an output
of the original graph. The table of all rows is printed by `pytest -s`. The digits are MNIST's test set where TRANSFERLIT_DATA
holds it; TRANSFERLIT_DIGITS says how many of them (all by default).
"""
import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import transferlit as tl
from transferlit.tf1.assembly import difference
from transferlit.tables import Table

ROOT = Path(os.environ.get("TRANSFERLIT_CHECKPOINTS", ""))
pytestmark = pytest.mark.skipif(not (ROOT / "manifest.json").is_file(), reason="TRANSFERLIT_CHECKPOINTS names no set of checkpoints")
SET = json.loads((ROOT / "manifest.json").read_text("utf-8")) if (ROOT / "manifest.json").is_file() else []
COMPLETE = [e for e in SET if e["status"] == "complete"]
GRAPHS = [e for e in COMPLETE if e["kind"] in ("tf1_v2", "v1") and any(f["name"].endswith(".meta") for f in e["files"])]
EXPORTS = [e for e in COMPLETE if e["kind"] == "saved_model"]
KERAS = [e for e in COMPLETE if e["kind"] in ("h5", "keras") and e.get("truth")]
CUSTOM = [e for e in COMPLETE if e["kind"] in ("h5", "keras") and not e.get("truth")]
ARRAYS = [e for e in COMPLETE if e["kind"] in ("tf1_v2", "v1", "tf2_object", "weights_h5") and e not in GRAPHS]
DAMAGED = [e for e in SET if e["status"] == "damaged"]
MOST = 1e-5  # of the largest number


def where(entry): return ROOT / entry["dir"] / (entry["prefix"] or "")
def truth(entry): return np.load(ROOT / entry["truth"]) if entry.get("truth") else None
def named(entry): return entry["id"]


def known(entry, key):
    """What the truth was computed for, or nothing."""
    found = truth(entry)
    return str(found[key]) if found is not None and key in found else None


@cache
def digits():
    path = Path(os.environ.get("TRANSFERLIT_DATA", ""), "mnist.npz")
    if not path.is_file(): return None
    with np.load(path) as data: train, x, y = data["x_train"], data["x_test"], data["y_test"]
    rows = int(os.environ.get("TRANSFERLIT_DIGITS", len(x)))
    flat = train.reshape(len(train), -1).astype("float64")
    spread = flat.std(0)
    return x[:rows], y[:rows], flat.mean(0), np.where(spread == 0, 1, spread)


SCALES = {"raw": lambda x, mean, spread: x, "/255": lambda x, mean, spread: x/255, "x/127.5-1": lambda x, mean, spread: x/127.5 - 1,
          "(x/255)-0.5": lambda x, mean, spread: x/255 - .5, "standardized": lambda x, mean, spread: (x - mean)/spread}


def accuracy(entry, model):
    """Accuracy on MNIST, scaled as the manifest says; None for other models."""
    best, data = entry["report"].get("mnist_best"), digits()
    if not best or data is None: return None
    x, y, mean, spread = data
    if "digits" in best: x, y = x[y < 5], y[y < 5]
    x = SCALES[best["scaling"]](x.reshape(len(x), -1).astype("float64"), mean, spread).reshape(-1, 28, 28)
    size, *shape = model.inputs[0].shape
    if tuple(shape[:2]) == (32, 32): x = np.pad(x, ((0, 0), (2, 2), (2, 2)))
    x, step = x.reshape(-1, *shape).astype(model.inputs[0].dtype), size or 1000
    found = [np.asarray(model(np.resize(x[i:i + step], (size or len(x[i:i + step]), *shape)))) for i in range(0, len(x), step)]
    return float((np.concatenate(found)[:len(y)].argmax(-1) == y).mean())


@cache
def row(name):
    """One line of the table, for one model; what goes wrong is written down."""
    entry = next(e for e in SET if e["id"] == name)
    found = {"model": name, "TensorFlow": entry["report"].get("tf_version") or ""}
    try:
        old = tl.revive(where(entry))
        model = old.to_keras()
        made = old.report["made"][-1]
        found |= {"layers": made["layers"], "native": made["native"], "difference": made["difference"]}
        if (best := entry["report"].get("mnist_best")): found |= {"MNIST": accuracy(entry, model), "manifest": best["accuracy"]}
        if (data := truth(entry)) is not None:
            again = old.to_keras(outputs=known(entry, "output"))
            found["off truth"] = difference(again(data["x"]), data["y"])
            found["layer off truth"] = difference(old.as_layer(outputs=known(entry, "output"))(data["x"]), data["y"])
            found["found by itself"] = difference(model(data["x"]), data["y"]) <= MOST
    except Exception as error:  # the row says what any user would have seen
        found["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
    return found


def check(found):
    assert "failed" not in found, found["failed"]
    assert found["difference"] is None or found["difference"] <= MOST
    assert max(found.get("off truth", 0), found.get("layer off truth", 0)) <= MOST
    if found.get("MNIST") is not None and "TRANSFERLIT_DIGITS" not in os.environ:
        assert abs(found["MNIST"] - found["manifest"]) < 5e-4


@pytest.mark.parametrize("entry", GRAPHS + EXPORTS + KERAS, ids=named)
def test_revived(entry): check(row(entry["id"]))


def test_most_are_native():
    rows = [row(e["id"]) for e in GRAPHS]
    print("", Table([row(e["id"]) for e in GRAPHS + EXPORTS + KERAS], "Old models, revived"), sep="\n")
    plain = [r for r, e in zip(rows, GRAPHS) if e["report"].get("dense_layers_by_graph", 0) + e["report"].get("conv_layers_by_graph", 0)]
    assert not [r for r in rows if "failed" in r]
    assert sum(r["native"] for r in plain) >= .9*len(plain)


@pytest.mark.parametrize("entry", ARRAYS, ids=named)
def test_arrays_without_a_graph(entry):
    with pytest.raises(ValueError, match="(graph|configuration).*Received"): tl.revive(where(entry))


@pytest.mark.parametrize("entry", CUSTOM, ids=named)
def test_custom_objects_are_asked_for(entry):
    with pytest.raises(ValueError, match="custom_objects.*Received a file that needs"): tl.revive(where(entry))


@pytest.mark.parametrize("entry", DAMAGED, ids=named)
def test_incomplete(entry):
    """The graph of an incomplete file can be looked at; a model of it is refused with the name of what is missing."""
    old = tl.revive(where(entry))
    assert len(old.layers) and not old.complete
    for make in (old.to_keras, old.as_layer):
        with pytest.raises(FileNotFoundError) as caught: make()
        assert any(name.split()[0] in str(caught.value) for name in entry["missing"])
