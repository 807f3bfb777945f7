"""What an interrupted run has left is compared before anything is added to it: with the model as it is now, with the data
that comes now, and with the key under which it lies.
"""
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import extraction
from transferlit.features import precompute
from transferlit.store import Damaged, local as disk, open_store

SCALE = {"by": 2.0}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(disk.shard_limits, "bytes", 4096)
    monkeypatch.setitem(SCALE, "by", 2.0)


def scaled():
    """A model of which no key can tell everything: a dictionary of this module is changed in place."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    half = keras.layers.Dense(16, trainable=False, name="half")(keras.layers.Lambda(lambda t: t * look()["by"], name="scale")(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(half))


def look():
    return __import__("sys").modules[__name__].SCALE


def truth(model, x):
    return np.asarray(keras.Model(model.input, model.get_layer("half").output)(x))


class Stop(KeyboardInterrupt):
    pass


def interrupted(store, model, *data, after=12, **more):
    """As Ctrl-C leaves it, after so many batches."""
    with pytest.MonkeyPatch.context() as patch:
        add, calls = disk.Writer.add, []

        def stop(self, arrays):
            add(self, arrays)
            calls.append(1)
            if len(calls) == after:
                raise Stop
        patch.setattr(disk.Writer, "add", stop)
        with pytest.raises(Stop):
            precompute(model, *data, store=store, batch_size=50, verbose=False, **more)


def given(kind, x, y):
    batches = [(x[i:i + 50], y[i:i + 50]) for i in range(0, len(x), 50)]
    made = tf.data.Dataset.from_tensor_slices((x, y))
    return {"arrays": lambda: (x, y), "dataset": lambda: (made.batch(50),), "shuffled": lambda: (made.shuffle(len(x), seed=3).batch(50),),
            "function": lambda: (lambda: iter(batches),), "generator": lambda: ((b for b in batches),)}[kind]()


KINDS = ("arrays", "dataset", "shuffled", "function", "generator")


def key_of(kind):
    return {"key": "mine"} if kind in ("function", "generator") else {}


def in_order(made, y):
    """Features by label, each label once."""
    labels = np.asarray(made.y)
    np.testing.assert_array_equal(np.sort(labels), np.sort(y))
    return np.asarray(made.arrays[0])[np.argsort(labels)]


@pytest.mark.parametrize("changed", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_another_function_are_not_added_to(kind, changed, tmp_path):
    model, (x, y) = scaled(), extraction.data(1500)
    interrupted(tmp_path, model, *given(kind, x, y), **key_of(kind))
    SCALE["by"] = 2.5 if changed else 2.0
    made = precompute(model, *given(kind, x, y), store=tmp_path, batch_size=50, verbose=False, **key_of(kind))
    np.testing.assert_allclose(in_order(made, y), truth(model, x), atol=1e-5)
    assert made.note.startswith("Computed: what an interrupted run had left" if changed else "Went on at row 600"), made.note


def test_far_away_too(tmp_path):
    pytest.importorskip("fsspec")
    store, model, (x, y) = open_store(f"file://{tmp_path}/far", "1 MB"), scaled(), extraction.data(1500)
    store.cache.folder = tmp_path / "cache"
    interrupted(store, model, x, y)
    SCALE["by"] = 2.5
    made = precompute(model, x, y, store=store, batch_size=50, verbose=False)
    np.testing.assert_allclose(in_order(made, y), truth(model, x), atol=1e-5)


def jitter(x, seed):
    return x + np.random.default_rng(seed).normal(0, .1, x.shape).astype("float32")


@pytest.mark.parametrize("after", [12, 40])
def test_augmented_rows_are_compared(after, tmp_path):
    """In the first view, and in the second."""
    model, (x, y), more = scaled(), extraction.data(1500), dict(views=2, augment=jitter)
    interrupted(tmp_path, model, x, y, after=after, **more)
    SCALE["by"] = 2.5
    made = precompute(model, x, y, store=tmp_path, batch_size=50, verbose=False, **more)
    assert "interrupted" in made.note
    for view in range(2):
        np.testing.assert_allclose(made.view(view).arrays[0][:], precompute(model, x, y, verbose=False, **more).view(view).arrays[0], atol=1e-5)


@pytest.mark.parametrize("overlap", [0, 700, 1450])
@pytest.mark.parametrize("kind", ["function", "generator"])
def test_a_key_with_other_content_doubles_nothing(kind, overlap, tmp_path):
    """The rows that were left are not those that come now, or only some of them."""
    model, (x, y) = scaled(), extraction.data(3000)
    old, new = slice(0, 1500), slice(1500 - overlap, 3000 - overlap)
    interrupted(tmp_path, model, *given(kind, x[old], y[old]), key="mine")

    def again():
        return precompute(model, *given(kind, x[new], y[new]), key="mine", store=tmp_path, batch_size=50, verbose=False)
    if kind == "generator" and overlap == 1450:  # its first rows are there, and the last that were left never come
        with pytest.raises(ValueError, match="run it once more"):
            again()
    made = again()
    np.testing.assert_allclose(in_order(made, y[new]), truth(model, x[new]), atol=1e-5)


@pytest.mark.parametrize("whole", [True, False])
def test_features_of_other_data_are_not_taken_for_mine(whole, tmp_path):
    """Two entries change places, finished or not."""
    model, (x, y) = scaled(), extraction.data(1500)
    data = {"one": x, "two": np.concatenate([x[:700], x[700:] + 1])}
    for rows in data.values():
        (precompute(model, rows, y, store=tmp_path, verbose=False) if whole else interrupted(tmp_path, model, rows, y))
    one, two = disk.find_entries(tmp_path)
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    for rows in data.values():
        made = precompute(model, rows, y, store=tmp_path, batch_size=50, verbose=False)
        np.testing.assert_allclose(np.asarray(made.arrays[0]), truth(model, rows), atol=1e-5)
        assert not whole or "it is the entry" in made.note


@pytest.mark.parametrize("whole", [True, False])
def test_an_entry_that_does_not_say_how_exact_it_is_is_made_anew(whole, tmp_path):
    """Its checksum is right: somebody else writes to the store."""
    model, (x, y) = scaled(), extraction.data(1500)
    precompute(model, x, y, store=tmp_path, verbose=False) if whole else interrupted(tmp_path, model, x, y)
    folder, = disk.find_entries(tmp_path)
    for path in folder.glob("manifest.json" if whole else "*.json"):
        said = disk.load_sealed(path.read_bytes())
        path.write_text(disk.dump_sealed({**said, "about": {**said["about"], "error": "none"}} if whole else {**said, "note": {}}))
    made = precompute(model, x, y, store=tmp_path, batch_size=50, verbose=False)
    np.testing.assert_allclose(np.asarray(made.arrays[0]), truth(model, x), atol=1e-5)
    assert "not of features" in made.note


def test_an_entry_of_a_newer_version_is_told(tmp_path):
    model, (x, y) = scaled(), extraction.data(200)
    precompute(model, x, y, store=tmp_path, verbose=False)
    folder, = disk.find_entries(tmp_path)
    (folder / "manifest.json").write_text(disk.dump_sealed({"format": disk.FORMAT + 1}))
    before = sorted(p.name for p in folder.iterdir())
    with pytest.raises(disk.NewerFormat, match="Install the version that wrote it"):
        precompute(model, x, y, store=tmp_path, verbose=False)
    assert sorted(p.name for p in folder.iterdir()) == before


@pytest.mark.parametrize("text", ["[]", "null", "{", '{"KEY": "many"}', '{"KEY": 0}', '{"KEY": -3}', '{"KEY": true}', '{"KEY": 1.5}', "[" * 100_000, b"\xff\xfe\x00", None])
def test_damaged_batch_sizes_are_measured_anew(text, tmp_path, monkeypatch):
    """Whatever lies there, also a folder."""
    from transferlit.features import extraction as made_by
    monkeypatch.setenv("TRANSFERLIT_CACHE", str(tmp_path))
    monkeypatch.setattr(made_by, "_LONG", 0)
    path, (x, _) = tmp_path / "batch_sizes.json", extraction.data(4000)
    monkeypatch.setattr(made_by, "guess_batch_size", lambda cut: 16)
    monkeypatch.setattr(made_by, "_measured", lambda *_: 48)
    assert precompute(extraction.model(), x, verbose=False).batch_size == 48
    mine, = json.loads(path.read_text())
    path.unlink()
    if text is None:
        path.mkdir()
    else:
        path.write_bytes(text.replace("KEY", mine).encode() if isinstance(text, str) else text)
    assert precompute(extraction.model(), x, verbose=False).batch_size == 48


def test_an_error_of_a_store_travels():
    """Workers raise them in other processes."""
    import pickle
    from pathlib import Path
    for error in (Damaged(Path("a"), ["b"]), disk.NewerFormat(Path("a"), 7)):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
