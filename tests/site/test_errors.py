"""Errors that lead to a page: each address is one of ours, each is in use, and a reader gets it with the error."""
import re
from pathlib import Path

import keras
import nbformat
import numpy as np
import pytest
import transferlit as tl
from transferlit.demo import toy, toy_data
from transferlit.errors import PAGES, see

pytest.importorskip("nbdev", reason="nbdev is not installed: pip install -e .[dev]")
pytest.importorskip("smalldocs", reason="smalldocs is not installed: pip install -e .[dev]")
import docs

PACKAGE = Path(tl.__file__).parent


def headings(notebook):
    cells = [c.source for c in nbformat.read(docs.NBS / f"{notebook}.ipynb", as_version=4).cells if c.cell_type == "markdown"]
    return {docs.slug(title) for cell in cells for title in re.findall(r"^#+ (.+)$", cell, re.M)}


@pytest.mark.parametrize("topic", PAGES)
def test_each_address_is_a_heading_of_a_page(topic):
    page, _, anchor = PAGES[topic].partition("#")
    notebook, = (stem for stem, name in docs.page_names().items() if f"{name}.html" == page)
    assert not anchor or anchor in headings(notebook)


def test_each_topic_is_in_use_and_none_is_made_up():
    used = {topic for path in PACKAGE.rglob("*.py") for topic in re.findall(r"""\bsee\(["']([^"']+)["']\)""", path.read_text("utf-8"))}
    assert used == set(PAGES)


def saved(model, folder, name="model.keras"):
    return tl.save(model, folder / name)


def normed():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.BatchNormalization(name="b")])
    model.compile("sgd", "mse")
    return model


def moved(folder):
    model, (x, _) = toy(), toy_data(32)
    tl.freeze(model, "hidden1")
    features = tl.precompute(model, x)
    model.get_layer("hidden1").bias.assign_add(np.ones(8))
    features.check(model)


def emptied(folder):
    (folder / "notes.dat").write_bytes(bytes(range(200, 250)) * 9)
    tl.peek(folder / "notes.dat")


MISTAKES = {
    "pattern": lambda folder: tl.freeze(toy(), "hiden1"),
    "restore": lambda folder: tl.restore(toy(hidden=(8, 7)), saved(toy(), folder)),
    "suffix": lambda folder: saved(toy(), folder, "model.h7"),
    "transform": lambda folder: tl.plan(toy(), saved(toy(), folder), transform="turn"),
    "graft": lambda folder: tl.graft(toy(), "hidden1", keras.layers.Dense(2, name="X"), keras.layers.Dense(2, name="X")),
    "barrier": lambda folder: tl.stop_after(keras.Sequential([keras.layers.Dense(2)]), "dense"),
    "classes": lambda folder: tl.fit(toy(), toy_data(32)[0], np.arange(32), verbose=0),
    "batchnorm": lambda folder: tl.finetune(normed(), np.ones((8, 4)), np.ones((8, 3)), stages=[dict(train="a|b", epochs=1)]),
    "no graph": lambda folder: tl.revive(saved(toy(), folder, "model.safetensors")),
    "stale": moved,
    "damaged": emptied,
}


@pytest.mark.parametrize("topic", MISTAKES)
def test_a_reader_gets_the_address_with_the_error(topic, tmp_path):
    with pytest.raises((ValueError, OSError)) as caught:
        MISTAKES[topic](tmp_path)
    assert see(topic) in str(caught.value)
    assert str(caught.value).index(see(topic)) < str(caught.value).index("Received: ")
