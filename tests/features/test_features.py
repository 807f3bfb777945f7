"""Stored features under ill treatment: killed writers, damaged files, two processes, less memory than features.

TRANSFERLIT_ROUNDS says how often (10 by default; the figures in the docs are of 200).
"""
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import extraction
from transferlit.store import local as disk
from transferlit.caching import fit
from transferlit.cut import split
from transferlit.features import Columns, precompute, row_marks
from transferlit.features.extraction import _Memory, progress_bar
from transferlit.store.local import Damaged, StoredRows, find_entries, read, read_begun

ROUNDS = int(os.environ.get("TRANSFERLIT_ROUNDS", 10))
SCRIPT = Path(extraction.__file__)
ENV = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
linux = pytest.mark.skipif(sys.platform != "linux", reason="uses fork, /proc and resource limits")


@pytest.fixture(scope="module")
def truth():
    return precompute(extraction.model(), *extraction.data(), batch_size=16, verbose=False).arrays[0]


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(disk.shard_limits, "bytes", 4096)


def start(verb, store, **kwargs):
    return subprocess.Popen([sys.executable, SCRIPT, verb, store], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENV, **kwargs)


@linux
def test_killed_at_any_moment_it_is_whole_or_absent(tmp_path, truth, record_property):
    """SIGKILL at random moments; what is there is right, and the next run goes on behind it."""
    rng, kept, whole, resumed = random.Random(0), 0, 0, 0
    forks = start("forks", tmp_path, stdin=subprocess.PIPE)
    try:
        for _ in range(ROUNDS):
            forks.stdin.write("go\n")
            forks.stdin.flush()
            child = int(forks.stdout.readline())
            time.sleep(rng.uniform(0.2, 1.6))
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
            assert forks.stdout.readline() == "gone\n"
            for folder in find_entries(tmp_path):
                if (entry := read(folder)) is not None:
                    whole += 1
                    np.testing.assert_array_equal(np.asarray(entry.arrays["hidden1"]), truth)
                    shutil.rmtree(folder)
                    kept = 0
                elif (part := read_begun(folder)) is not None:
                    resumed += 1
                    assert part.rows >= kept, "a whole shard was lost"
                    kept = part.rows
                    np.testing.assert_array_equal(np.asarray(part.arrays["hidden1"]), truth[:kept])
    finally:
        forks.stdin.close()
        forks.wait(60)
    record_property("killed", ROUNDS)
    print(f"{ROUNDS} kills: {resumed} left whole shards behind, {whole} came when the entry was whole")
    made = precompute(extraction.model(), *extraction.data(), store=tmp_path, batch_size=16, verbose=False)
    np.testing.assert_array_equal(np.asarray(made.arrays[0]), truth)


def damage(folder, rng):
    """One change to a file of an entry, of the kinds that disks and people make."""
    path = rng.choice(sorted(p for p in folder.iterdir() if p.is_file()))
    size = path.stat().st_size
    kind = rng.choice(["flip", "cut", "grow", "delete", "swap", "zero", "foreign"])
    if kind == "flip":
        content = bytearray(path.read_bytes())
        content[rng.randrange(size)] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    elif kind == "cut":
        os.truncate(path, rng.randrange(size))
    elif kind == "grow":
        path.write_bytes(path.read_bytes() + b"\0")
    elif kind == "delete":
        path.unlink()
    elif kind == "zero":
        content = bytearray(path.read_bytes())
        at = rng.randrange(size)
        content[at:at + 64] = bytes(len(content[at:at + 64]))
        path.write_bytes(content)
    elif kind == "swap":
        others = [p for p in folder.iterdir() if p.is_file() and p.suffix == path.suffix and p != path] or [path]
        shutil.copyfile(rng.choice(sorted(others)), path)
    else:
        (folder / "99999.0.bin").write_bytes(b"somebody else's")
    return kind, path.name


def test_damage_is_found_before_use(tmp_path, truth, small_shards):
    """Whatever changed a byte of an entry is found, and what `precompute` returns is right."""
    model, (x, y), rng = extraction.model(), extraction.data(), random.Random(0)
    found = harmless = 0
    for _ in range(ROUNDS):
        precompute(model, x, y, store=tmp_path, batch_size=16, verbose=False)
        folder, = find_entries(tmp_path)
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        kind, name = damage(folder, rng)
        changed = {p.name: p.read_bytes() for p in folder.iterdir()} != before
        made = precompute(model, x, y, store=tmp_path, batch_size=16, verbose=False)
        np.testing.assert_array_equal(np.asarray(made.arrays[0]), truth)
        anew = not made.note.startswith("Reused")
        assert anew == changed, (kind, name, made.note)
        found, harmless = found + anew, harmless + (not changed)
    print(f"{ROUNDS} damages: {found} found and computed anew, {harmless} left every byte as it was")


@linux
def test_an_entry_that_is_not_of_features_is_made_anew(tmp_path):
    model, x = extraction.model(), extraction.data(40)[0]
    first = precompute(model, x, store=tmp_path, verbose=False)
    path = first.folder / "manifest.json"
    path.write_text(disk.dump_sealed({**disk.load_sealed(path.read_bytes()), "about": {}}))
    again = precompute(model, x, store=tmp_path, verbose=False)
    assert "not of features" in again.note and again.verify(40) < 1e-5


def test_two_processes_compute_once(tmp_path):
    first, second = start("extract", tmp_path), start("extract", tmp_path)
    notes = sorted(p.communicate(timeout=120)[0].split(":")[0] for p in (first, second))
    assert notes == ["Computed", "Reused"]
    assert len(find_entries(tmp_path)) == 1


@linux
def test_larger_than_the_memory_of_the_process(tmp_path):
    """A limit on the process's memory: on disk the features are made, in memory the same ones are not."""
    said = start("larger", tmp_path).communicate(timeout=300)[0]
    made, spare = (int(said.split()[i]) for i in (0, 3))
    assert made > 7 * spare


def test_full_disk_keeps_the_whole_shards(tmp_path, truth, small_shards, monkeypatch):
    model, (x, y) = extraction.model(), extraction.data()
    real, written = disk._Shard.add, []

    def full(self, arrays):
        written.append(1)
        if len(written) == 30:
            raise OSError(28, "No space left on device")
        real(self, arrays)

    monkeypatch.setattr(disk._Shard, "add", full)
    with pytest.raises(OSError, match="fit on its disk"):
        precompute(model, x, y, store=tmp_path, batch_size=16, verbose=False)
    monkeypatch.setattr(disk._Shard, "add", real)
    folder, = find_entries(tmp_path)
    assert read(folder) is None and 0 < read_begun(folder).rows < 30 * 16
    made = precompute(model, x, y, store=tmp_path, batch_size=16, verbose=False)
    assert made.note.startswith("Went on at row")
    np.testing.assert_array_equal(np.asarray(made.arrays[0]), truth)


def test_interrupted_by_hand(tmp_path, truth, monkeypatch):
    """Ctrl-C keeps every row that was made."""
    model, (x, y) = extraction.model(), extraction.data()
    real, calls = disk.Writer.add, []

    def stopped(self, arrays):
        real(self, arrays)
        calls.append(1)
        if len(calls) == 40:
            raise KeyboardInterrupt

    monkeypatch.setattr(disk.Writer, "add", stopped)
    with pytest.raises(KeyboardInterrupt):
        precompute(model, x, y, store=tmp_path, batch_size=16, verbose=False)
    folder, = find_entries(tmp_path)
    assert read_begun(folder).rows == 40 * 16
    made = precompute(model, x, y, store=tmp_path, batch_size=16, verbose=False)
    assert made.note.startswith("Went on at row 640")
    np.testing.assert_array_equal(np.asarray(made.arrays[0]), truth)


def test_a_pipeline_goes_on_where_it_stopped_in_any_order(tmp_path, truth, small_shards, monkeypatch):
    """Shuffled anew after the interruption: no row is lost, none doubled, each keeps its label."""
    model, (x, y) = extraction.model(), extraction.data()
    pipeline = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), reshuffle_each_iteration=True).batch(50)
    real, calls = disk.Writer.add, []

    def stopped(self, arrays):
        real(self, arrays)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(disk.Writer, "add", stopped)
    with pytest.raises(KeyboardInterrupt):
        precompute(model, pipeline, store=tmp_path, batch_size=100, verbose=False)
    made = precompute(model, pipeline, store=tmp_path, batch_size=100, verbose=False)
    assert made.note.startswith("Went on at row")
    labels = np.asarray(made.y)
    assert sorted(labels) == list(range(len(x)))
    np.testing.assert_allclose(np.asarray(made.arrays[0]), truth[labels], atol=1e-6)
    again = precompute(model, pipeline, store=tmp_path, verbose=False)
    assert again.note.startswith("Reused")


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 300)

    def __getitem__(self, i):
        part = slice(i * 300, (i + 1) * 300)
        return self.x[part], self.y[part], np.full(len(self.y[part]), 2.0)


def as_given(kind, x, y):
    if kind == "tf.data":
        return (tf.data.Dataset.from_tensor_slices((x, y)).batch(300),)
    if kind == "PyDataset":
        return (Batches(x, y),)
    if kind == "generator":
        return ((x[i:i + 300], y[i:i + 300]) for i in range(0, len(x), 300)),
    if kind == "function":
        return (lambda: ((x[i:i + 300], y[i:i + 300]) for i in range(0, len(x), 300))),
    if kind == "numbered":
        return Numbered(x, y),
    return {"array": x, "tensor": tf.constant(x), "float64": x.astype("float64"), "list of lists": x.tolist(),
            "mapped": np.lib.stride_tricks.as_strided(x, x.shape, x.strides)}[kind], y


class Numbered:
    """Batches by number, as many classes of people's own give them; never an IndexError."""
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 300)

    def __getitem__(self, i):
        return [self.x[i * 300:i * 300 + 300], self.y[i * 300:i * 300 + 300]]


@pytest.mark.parametrize("kind", ["array", "tensor", "float64", "list of lists", "mapped", "tf.data", "PyDataset", "generator", "function", "numbered"])
def test_every_kind_of_data(kind, truth):
    x, y = extraction.data()
    made = precompute(extraction.model(), *as_given(kind, x, y), verbose=False)
    np.testing.assert_allclose(made.arrays[0], truth, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(made.y), y)
    assert (made.sample_weight is not None) == (kind == "PyDataset")


def test_several_inputs_by_name(tmp_path):
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    frozen = keras.layers.Dense(5, name="frozen", trainable=False)(a)
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(2)(keras.layers.Concatenate()([frozen, b])))
    x = {"a": np.random.rand(20, 3).astype("float32"), "b": np.random.rand(20, 4).astype("float32")}
    made = precompute(model, x, np.arange(20), store=tmp_path, verbose=False)
    features = [np.asarray(f) for f in made.arrays]
    np.testing.assert_allclose(made.split.upper(features if len(features) > 1 else features[0]), model(x), atol=1e-6)
    with pytest.raises(ValueError, match="one row a sample"):
        precompute(model, {"a": x["a"], "b": x["b"][:5]})
    with pytest.raises(ValueError, match="one array for each input"):
        precompute(model, {"a": x["a"]})


@pytest.mark.parametrize("bad, message", [
    (lambda x, y: dict(x=x[:0], y=y[:0]), "at least one row"), (lambda x, y: dict(x=x, y=y[:-1]), r"x \[2000\], y \[1999\]"),
    (lambda x, y: dict(x=np.where(x > 2, np.nan, x), y=y), "x with NaN in"),
    (lambda x, y: dict(x=x[:, :3], y=y), "the shape that the model takes"), (lambda x, y: dict(x=x, y=y, dtype="int8"), "dtype='int8'"),
    (lambda x, y: dict(x=x, y=y, views=2), "`augment="), (lambda x, y: dict(x=x, y=y, limit="10 KB"), "limit of 10 KB"),
    (lambda x, y: dict(x=x, y=y, augment=abs), "repeatable"), (lambda x, y: dict(x=x * 1e9, y=y, at="hidden1", dtype=None, limit="lots"), '"20 GB"'),
    (lambda x, y: dict(x=x, key="mine"), "known by their content"), (lambda x, y: dict(x=x[0]), "for a single row"),
    (lambda x, y: dict(x=tf.data.Dataset.from_tensor_slices((x, y))), "batches of rows"), (lambda x, y: dict(x=tf.data.Dataset.from_tensor_slices(x), key="k"), "batches of rows"),
    (lambda x, y: dict(x=iter([])), "read once only"), (lambda x, y: dict(x=tf.data.Dataset.from_tensor_slices(x).batch(9).repeat()), "come to an end")])
def test_bad_input_is_refused_before_anything_is_written(bad, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        precompute(extraction.model(), store=tmp_path / "new", verbose=False, **bad(*extraction.data()))
    assert not find_entries(tmp_path / "new")


def test_what_changed_is_said(tmp_path):
    """Of all entries the one most like this is compared with."""
    x, y = extraction.data(400)

    def note(change=None, rows=x, **how):
        model = extraction.model()
        if change: change(model.get_layer("hidden1"))
        return precompute(model, rows, y[:len(rows)], store=tmp_path, verbose=False, **how).note

    def other(seed): return np.concatenate([x[:1] + seed, x[1:]])
    assert note() == "Computed: nothing like it was stored."
    assert note(lambda layer: layer.kernel.assign_add(layer.kernel)) == "Computed: the nearest in the store differs (`hidden1/kernel` changed)."
    assert note(lambda layer: setattr(layer, "activation", keras.activations.relu)) == "Computed: the nearest in the store differs (the settings of `hidden1` changed)."
    assert note(rows=x[:-100]) == "Computed: the nearest in the store differs (x has 100 fewer rows)."
    assert note(rows=other(1)) == "Computed: the nearest in the store differs (the content of x changed)."
    assert note(rows=x.astype("float64")) == "Computed: the nearest in the store differs (x is float64 instead of float32)."
    assert note(dtype="float16") == "Computed: the nearest in the store differs (features are stored as float16 instead of as computed)."
    assert note().startswith("Reused")


def test_other_names_for_the_same_layers(tmp_path):
    """Keras numbers the names it makes up: the second model of a process is the first one all the same."""
    def unnamed():
        keras.utils.set_random_seed(0)
        body = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), keras.layers.Dense(4)])
        body.trainable = False
        return keras.Sequential([body, keras.layers.Dense(2)])
    first, second = (precompute(unnamed(), extraction.data()[0], store=tmp_path, verbose=False) for _ in range(2))
    assert first.boundary[0].name != second.boundary[0].name and second.note.startswith("Reused")
    np.testing.assert_array_equal(np.asarray(first.arrays[0]), np.asarray(second.arrays[0]))


def test_too_large_for_half_precision():
    x = np.full((4, 2), 1e6, "float32")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="ones", trainable=False), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="dtype='bfloat16'"):
        precompute(model, x, dtype="float16", verbose=False)
    made = precompute(model, x, dtype="bfloat16", verbose=False)
    assert 0 < made.error <= 2e6 / 2**8


def test_least_recently_used_goes_first(tmp_path):
    model, (x, y) = extraction.model(), extraction.data()
    sizes = []
    for n in (1000, 1100, 1200):
        precompute(model, x[:n], store=tmp_path, verbose=False)
        sizes.append(disk.size(tmp_path))
        time.sleep(0.05)
    precompute(model, x[:1000], store=tmp_path, verbose=False)  # used again: now the newest
    precompute(model, x[:900], store=tmp_path, verbose=False, limit=sizes[1])
    assert sorted(row["rows"] for row in disk.listing(tmp_path)) == [900, 1000]


def half_of(model):
    return keras.Model(model.input, model.layers[-2].output)


@dataclass
class Settings:
    by: float = 2.0


class Own(keras.layers.Layer):
    """Computes with attributes of every kind, and says nothing of them in its configuration."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.public, self._private, self.array, self.words = 2.0, 1.0, np.ones(6, "float32"), {"by": 1.0}
        self.data, self.space, self.activation = Settings(), SimpleNamespace(by=1.0), keras.activations.relu
        self.inner = keras.layers.Dense(6, "tanh", use_bias=False)
        self.table = table(1)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        by = self.public * self._private * self.words["by"] * self.data.by * self.space.by * self.array
        looked = tf.cast(self.table.lookup(tf.zeros(tf.shape(x)[:1], "int64")), "float32")
        return self.activation(self.inner(x)) * by * looked[:, None]


def table(value):
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(np.array([0]), np.array([value])), -1)


def adapted_again(layer, x):
    layer.adapt(4 * x - 9)


L = keras.layers
CHANGES = {  # a layer, and what is done to it in place
    "normalization": (lambda x: normalization(x), adapted_again),
    "normalization inside": (lambda x: keras.Sequential([keras.Input((6,)), normalization(x)]), lambda m, x: adapted_again(m.layers[0], x)),
    "bins": (lambda x: bins(x), lambda layer, x: layer.adapt(x[:100] * 3)),
    "activation": (lambda x: L.Dense(6, "relu"), lambda layer, x: setattr(layer, "activation", keras.activations.tanh)),
    "activation of an outer layer": (lambda x: Own(), lambda layer, x: setattr(layer, "activation", keras.activations.sigmoid)),
    "activation of an inner layer": (lambda x: Own(), lambda layer, x: setattr(layer.inner, "activation", keras.activations.sigmoid)),
    "epsilon": (lambda x: L.LayerNormalization(), lambda layer, x: setattr(layer, "epsilon", 0.5)),
    "scale": (lambda x: L.Rescaling(2.0), lambda layer, x: setattr(layer, "scale", 3.0)),
    "public": (lambda x: Own(), lambda layer, x: setattr(layer, "public", 3.0)),
    "private": (lambda x: Own(), lambda layer, x: setattr(layer, "_private", 3.0)),
    "array": (lambda x: Own(), lambda layer, x: layer.array.__setitem__(0, 7.0)),
    "dictionary": (lambda x: Own(), lambda layer, x: layer.words.update({"by": 5.0})),
    "dataclass": (lambda x: Own(), lambda layer, x: setattr(layer.data, "by", 5.0)),
    "namespace": (lambda x: Own(), lambda layer, x: setattr(layer.space, "by", 5.0)),
    "table": (lambda x: Own(), lambda layer, x: setattr(layer, "table", table(3))),
    "code": (lambda x: L.Lambda(lambda t: t * 2), lambda layer, x: setattr(layer, "function", lambda t: t * 3)),
}


def normalization(x):
    layer = L.Normalization()
    layer.adapt(x)
    return layer


def bins(x):
    layer = L.Discretization(num_bins=4)
    layer.adapt(x)
    return layer


def stack(layer):
    """`layer` and a frozen one under a head."""
    inputs = keras.Input((6,))
    made = keras.Model(inputs, L.Dense(2, name="head")(L.Dense(4, name="body")(layer(inputs))))
    layer.trainable = made.get_layer("body").trainable = False
    return made


@pytest.mark.parametrize("kind", CHANGES)
def test_what_was_changed_in_place_counts(kind, tmp_path):
    """No features, key or compiled function from before a change of what no variable holds."""
    make, change = CHANGES[kind]
    x, _ = extraction.data(200)
    layer = make(x)
    model = stack(layer)
    cut = split(model)
    assert "body" in cut.layers
    before, kept = (precompute(model, x, store=store, verbose=False) for store in (None, tmp_path))
    again = precompute(model, x, store=tmp_path, verbose=False)
    assert again.key == kept.key and again.note.startswith("Reused")
    change(layer, x)
    truth = np.asarray(half_of(model)(x))
    assert np.abs(truth - before.arrays[0]).max() > 1e-3
    with pytest.raises(ValueError, match="what the model makes"):
        before.verify(200)
    with pytest.raises(ValueError, match="what the model is now"):
        before.check(model)
    for given in (model, cut):
        after, stored = (precompute(given, x, store=store, verbose=False) for store in (None, tmp_path))
        assert after.key != before.key and stored.key != kept.key and after.verify(200) < 1e-4
        np.testing.assert_allclose(after.arrays[0], truth, atol=1e-5)
        np.testing.assert_allclose(np.asarray(stored.arrays[0]), truth, atol=1e-5)


def test_a_vocabulary_adapted_again_counts():
    inputs, words = keras.Input((1,), dtype="string"), np.array([["a"], ["b"], ["b"], ["c"]])
    layer = L.StringLookup()
    layer.adapt(words)
    body = L.Embedding(8, 3, name="body", trainable=False)
    model = keras.Model(inputs, L.Dense(2, name="head")(L.Flatten()(body(layer(inputs)))))
    before = precompute(model, words, verbose=False)
    layer.adapt(np.array([["c"], ["c"], ["a"]]))
    after = precompute(model, words, verbose=False)
    assert after.key != before.key
    np.testing.assert_array_equal(after.arrays[0], half_of(model)(tf.constant(words)))


def test_fit_cuts_anew_where_a_rate_changed():
    """What a dropout lets through is no longer the same each time."""
    x, y = extraction.data(64)
    model = keras.Sequential([keras.Input((6,)), L.Dense(4, name="body"), L.Dropout(0.5, name="drop"), L.Dense(4, name="behind"), L.Dense(1, name="head")])
    for name in ("body", "behind"):
        model.get_layer(name).trainable = False
    model.compile(keras.optimizers.SGD(0.0), "mse")
    losses = []
    for rate in (0.0, 0.5):
        model.get_layer("drop").rate = rate
        losses += fit(model, x, 0 * y, epochs=2, shuffle=False, verbose=0).history["loss"]
    assert losses[0] == pytest.approx(losses[1]) and losses[2] != pytest.approx(losses[3])


def test_removed_only_when_nobody_writes(tmp_path):
    model, (x, y) = extraction.model(), extraction.data()
    precompute(model, x, y, store=tmp_path, verbose=False)
    folder, = find_entries(tmp_path)
    inside, go = threading.Event(), threading.Event()

    def hold():
        from transferlit.files import locked
        with locked(folder):
            inside.set()
            go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(30)
    assert not len(disk.prune(tmp_path, keep=0)) and read(folder)
    go.set()
    thread.join()
    assert len(disk.prune(tmp_path, keep=0)) == 1 and not find_entries(tmp_path)


def test_rows_in_any_order():
    whole = np.random.default_rng(0).normal(size=(50, 3))
    rows = StoredRows([whole[:7], whole[7:7], whole[7:30], whole[30:]])
    for pick in (slice(5, 33), slice(40, 3, -3), [0, 49, 7, 7, -1], np.arange(50) % 2 == 0, 12, slice(9, 9)):
        np.testing.assert_array_equal(rows[pick], whole[pick])
    assert Damaged


def test_rows_of_unknown_number_are_held_once():
    parts = ([np.full((4096, 64), i, "float32"), np.array([f"{i:0{1 + i // 50}}"] * 4096)] for i in range(100))
    tracemalloc.start()
    memory = _Memory()
    for part in parts:
        memory.add(part)
    numbers, texts = memory.done()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.4 * (numbers.nbytes + texts.nbytes)
    assert (numbers[::4096, 0] == np.arange(100)).all()
    assert texts[::4096].tolist() == [f"{i:0{1 + i // 50}}" for i in range(100)]


@pytest.mark.parametrize("notebook", [True, False])
def test_progress_in_a_notebook_is_no_error_output(notebook, monkeypatch):
    """What is written to stderr stands in red there; on a command line stdout is for results."""
    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    else:
        monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    job = SimpleNamespace(source=SimpleNamespace(n=3), views=1, cut=SimpleNamespace(lower=SimpleNamespace(name="body")))
    with progress_bar(job, 0, True) as bar:
        assert bar.fp._wrapped is (sys.stdout if notebook else sys.stderr)


def test_missing_numbers_that_pass_the_frozen_part(tmp_path):
    class PassedOn(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight((shape[-1],), "ones", trainable=False)

        def call(self, x):
            return x * self.scale

    fill = keras.layers.Lambda(lambda t: keras.ops.nan_to_num(t))
    model = keras.Sequential([keras.Input((3,)), PassedOn(trainable=False, name="passed"), fill, keras.layers.Dense(2)])
    how = dict(store=tmp_path, at="passed", dtype="float16", verbose=False)
    x = np.array([[1, np.nan, 2], [np.nan] * 3, [np.inf, 0, 1]] * 9, "float32")
    for rows in x, lambda: iter(np.split(x, 3)):
        notes = [precompute(model, rows, **how).note for _ in range(2)]
        assert ["Reused" in note for note in notes] == [False, True], notes
    made = precompute(model, x, **how)
    np.testing.assert_array_equal(made.arrays[0], x.astype("float16"))
    assert made.verify() == made.error == 0


class Table:
    """Rows as `ray.data` gives them, without Ray."""

    def __init__(self, **columns):
        self.held, self.context = columns, SimpleNamespace(execution_options=SimpleNamespace())

    def columns(self):
        return [*self.held]

    def select_columns(self, names):
        return Table(**{name: self.held[name] for name in names})

    def take_batch(self, count):
        return {name: a[:count] for name, a in self.held.items()}

    def iter_batches(self, batch_size, batch_format):
        yield self.held


@pytest.mark.parametrize("filled", ["both", "a", "none"])
def test_rows_with_nan_of_a_ray_dataset_are_judged_by_the_model_as_those_of_arrays(filled):
    inputs = {name: keras.Input((3,), name=name) for name in "ab"}
    known = [keras.layers.Lambda(keras.ops.nan_to_num)(t) if filled in ("both", name) else t for name, t in inputs.items()]
    body = keras.layers.Dense(4, name="body", trainable=False)(keras.layers.Concatenate()(known))
    model = keras.Model(inputs, keras.layers.Dense(2)(body))
    rows = {name: np.random.default_rng(0).normal(size=(40, 3)).astype("float32") for name in "ab"}
    rows["a"][7, 1] = np.nan
    columns = Columns(Table(**rows), dict(a="a", b="b"))
    outcomes = []
    for x in rows, columns:
        try:
            outcomes.append(np.asarray(precompute(model, x, verbose=False).arrays[0]))
        except ValueError as error:
            outcomes.append("NaN" in str(error))
    np.testing.assert_array_equal(*outcomes)
    assert (outcomes[0] is True) == (filled == "none")
    rows["a"][7], rows["b"][9, 0] = 0, np.nan
    if filled == "a":
        with pytest.raises(ValueError, match="row 9: NaN"):
            precompute(model, columns, verbose=False)


def test_a_row_of_a_ray_dataset_may_lack_a_label():
    """As of arrays: a loss may leave out what is NaN there. A weight, and x, must be numbers."""
    from transferlit.features import Columns

    lacking = np.array([0, np.nan, 2], "float32")
    columns = Columns(None, "x", "y", "w", shapes=[(2,)])
    rows = {"x": np.ones((3, 2), "float32"), "y": lacking, "w": np.ones(3, "float32")}
    _, y, _, good, bad = columns.take(rows)
    assert good == [0, 1, 2] and not bad and np.array_equal(y, lacking, equal_nan=True)
    for name, values in ("w", lacking), ("x", rows["x"] * lacking[:, None]):
        assert columns.take({**rows, name: values})[-1] == [(1, "NaN")]


@pytest.mark.parametrize("kind", ["texts", "tensor", "dataset"])
def test_texts_of_any_language_are_rows(kind, tmp_path):
    """Tensors hold them as bytes."""
    texts = np.array(["가나", "나", "다나가", "é", "日本"] * 8)
    words = keras.Input((), dtype="string")
    letters = keras.layers.TextVectorization(split="character", output_sequence_length=3, vocabulary=["가", "나", "다", "é"])
    h = keras.layers.Flatten()(keras.layers.Embedding(9, 2, trainable=False)(letters(words)))
    model = keras.Model(words, keras.layers.Dense(2)(h))
    given = {"texts": texts, "tensor": tf.constant(texts), "dataset": tf.data.Dataset.from_tensor_slices(texts).batch(7)}[kind]
    made = precompute(model, given, store=tmp_path, verbose=False)
    lower = keras.Model(words, h)
    np.testing.assert_array_equal(np.asarray(made.arrays[0]), lower(tf.constant(texts)))
    assert precompute(model, given, store=tmp_path, verbose=False).note.startswith("Reused")


def test_rows_of_several_texts_are_the_same_beside_longer_ones():
    texts = np.array([["a", "b"], ["c", "d" * 9], ["e", "f"]])
    alone = np.concatenate([row_marks([texts[i : i + 1].astype(object)]) for i in range(3)])
    np.testing.assert_array_equal(row_marks([texts]), alone)
    assert len(set(alone.tolist())) == 3
