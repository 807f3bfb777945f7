"""Stores far away under ill treatment: requests that fail, damaged objects, killed and rival writers, caches smaller than the store.

TRANSFERLIT_ROUNDS says how often a writer is killed (once by default here). TRANSFERLIT_S3=http://127.0.0.1:5555 runs the test
against a server that speaks the protocol of S3, with the usual AWS_* variables; it writes into the bucket `transferlit-test`.
"""
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import copying
import extraction
from transferlit import fit
from transferlit.store import remote as far
from transferlit.store import local as disk
from transferlit.features import computing, precompute
from transferlit.files import locked
from transferlit.rows import memory
from transferlit.rows.blocks import Blocks
from transferlit.store.remote import RemoteStore

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'transferlit[remote]'")
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

ROUNDS = int(os.environ.get("TRANSFERLIT_ROUNDS", 1))
ENV = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
linux = pytest.mark.skipif(sys.platform != "linux", reason="uses fork")
SHARD = 4096  # bytes; the entry has 32 of them


class Bucket(MemoryFileSystem):
    """Objects in memory behind a network: it takes time, fails now and then, and counts."""
    protocol, cachable = "bucket", False

    def __init__(self, latency=0., fails=lambda verb, path: None):
        super().__init__()
        self.store, self.pseudo_dirs = {}, [""]
        self.latency, self.fails, self.log, self.lock = latency, fails, [], threading.Lock()

    def request(self, verb, path):
        with self.lock:
            self.log.append((verb, path.rpartition("/")[2]))
        if error := self.fails(verb, path):
            raise error
        time.sleep(self.latency)

    def pipe_file(self, path, value, **more):
        self.request("put", path)
        super().pipe_file(path, value, **more)

    def cat_file(self, path, **more):
        self.request("read", path)
        return super().cat_file(path, **more)

    def get_file(self, path, local, **more):
        self.request("get", path)
        Path(local).write_bytes(super().cat_file(path))

    def find(self, path, **more):
        self.request("find", path)
        return super().find(path, **more)

    def rm_file(self, path):
        self.request("remove", path)
        super().rm_file(path)

    def got(self):
        return [name for verb, name in self.log if verb == "get"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(disk.shard_limits, "bytes", SHARD)
    monkeypatch.setattr(far, "_PAUSES", (0., 0., 0.))


@pytest.fixture(scope="module")
def truth():
    return precompute(extraction.model(), *extraction.data(), batch_size=16, verbose=False)


@pytest.fixture
def caches(tmp_path):
    """Each call is another machine: a store with a cache of its own."""
    def machine(url="bucket/features", fs=None, limit=64 * SHARD, **more):
        machine.number += 1
        return RemoteStore(url, fs, tmp_path / f"cache{machine.number}", limit, **more)
    machine.number = 0
    return machine


def compute(store, **more):
    return precompute(extraction.model(), *extraction.data(), store=store, batch_size=16, verbose=False, **more)


def same(made, truth):
    np.testing.assert_array_equal(made.arrays[0][:], truth.arrays[0])
    np.testing.assert_array_equal(made.y[:], truth.y)
    np.testing.assert_array_equal(made.row_ids[:], truth.row_ids)


def objects(fs):
    return {name.rpartition("/")[2]: name for name in fs.store}


def on_disk(store):
    """Bytes of copies, those on their way too."""
    for _ in range(100):
        with suppress(FileNotFoundError):  # a folder that went while it was being read
            found = [p.stat() for p in store.cache.folder.rglob("*.bin")]
            return sum({stat.st_ino: stat.st_size for stat in found}.values())  # one that is being renamed may be seen twice


def forget_copies(store):
    for path in store.cache.folder.rglob("*.bin"):
        path.unlink()


@pytest.mark.parametrize("kind", ["memory", "file", "pyarrow", "bucket"])
def test_the_entry_is_the_local_one(kind, tmp_path, caches, truth):
    """Key, rows, labels, row ids and manifest; a second machine finds it and fetches two shards to compare."""
    (tmp_path / "far").mkdir()
    given = {"memory": ("memory://equal/features",), "file": (f"file://{tmp_path}/far",), "bucket": ("bucket/features", Bucket())}
    if kind == "pyarrow":
        given["pyarrow"] = str(tmp_path / "far"), pytest.importorskip("pyarrow.fs").LocalFileSystem()
    made, local = compute(caches(*given[kind])), compute(tmp_path / "local")
    assert made.key == local.key and made.folder.name == local.folder.name
    same(made, truth)
    manifests = made.folder.read("manifest.json"), disk.load_sealed((local.folder / "manifest.json").read_bytes())
    assert all(m["about"].pop("model").endswith("up to hidden1") for m in manifests)  # Keras numbers the models it names
    assert manifests[0] == manifests[1]
    assert len(made.folder.sizes()) == 1 + 2 * 32, "the manifest, and a blob for each array of each shard"
    other = caches(*given[kind])
    again = compute(other)
    assert again.note.startswith("Reused") and len([*other.cache.folder.glob("??/*.bin")]) <= 2
    same(again, truth)
    other.discard(made.folder)
    assert not other.size()


def test_a_pipeline_keeps_its_labels(caches, truth):
    x, y = extraction.data()
    fs, pipeline = Bucket(), tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(50)
    precompute(extraction.model(), pipeline, store=caches(fs=fs), batch_size=100, verbose=False)
    fs.log.clear()
    made = precompute(extraction.model(), pipeline, store=caches(fs=fs), batch_size=100, verbose=False)
    assert made.note.startswith("Reused")
    order = np.argsort(made.y[:])
    np.testing.assert_array_equal(made.arrays[0][:][order], truth.arrays[0])
    np.testing.assert_array_equal(made.y[:][order], truth.y)


def test_requests_that_fail_are_made_again(caches, truth):
    """Each one fails twice before it is answered."""
    calls = Counter()

    def twice(verb, path):
        calls[verb, path] += 1
        return OSError("connection reset") if calls[verb, path] % 3 else None
    fs = Bucket(fails=twice)
    same(compute(caches(fs=fs)), truth)
    same(compute(caches(fs=fs)), truth)


def test_what_was_sent_before_the_network_went_is_taken_up(caches, truth):
    """The error of the sending thread comes out of `precompute`; the next run goes on behind the whole chain."""
    fs, down = Bucket(), []
    fs.fails = lambda verb, path: OSError("no route to host") if verb == "put" and path.endswith(".bin") and len(down) > 10 or down.append(1) else None
    with pytest.raises(OSError, match="must be reachable.*no route to host"):
        compute(caches(fs=fs))
    assert not any("manifest" in name for name in fs.store)
    fs.fails = lambda verb, path: None
    made = compute(caches(fs=fs))
    assert made.note.startswith("Went on at row")
    same(made, truth)


@pytest.mark.parametrize("error, kind", [(PermissionError("Access Denied"), PermissionError), (FileNotFoundError("no such bucket"), FileNotFoundError),
                                         (OSError("no credentials"), OSError)])
def test_what_cannot_be_written_is_told_before_any_work(caches, monkeypatch, error, kind):
    fs = Bucket(fails=lambda verb, path: error if verb == "put" else None)
    monkeypatch.setattr("transferlit.features.computing.write_to_store", lambda *_: pytest.fail("the work began"))
    with pytest.raises(kind, match="must be reachable"):
        compute(caches(fs=fs))


def test_what_is_missing_is_told(monkeypatch, tmp_path):
    import fsspec.core

    def absent(url, **options):
        raise ImportError("Install s3fs to access S3")
    with pytest.raises(ValueError, match="Check its protocol"):
        compute("s4://bucket/features")
    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(ImportError, match="pip install s3fs"):
        compute("s3://bucket/features")
    for what in (lambda: disk.listing("s3://bucket"), lambda: disk.prune(Path("s3://bucket"), keep=1)):
        with pytest.raises(ValueError, match="RemoteStore"):
            what()


def test_the_limit_is_kept_and_too_small_a_one_is_told(caches, truth):
    fs = Bucket()
    with pytest.raises(ValueError, match=r"at least 16.4 KB \(16,384 bytes\)"):
        compute(caches(fs=fs), limit=2 * SHARD)
    assert not fs.store or not any(".bin" in n for n in fs.store)
    store = caches(fs=fs, limit=6 * SHARD)
    made = compute(store)
    same(made, truth)
    assert 0 < store.cache.nbytes <= 6 * SHARD
    assert sum(p.stat().st_size for p in store.cache.folder.rglob("*") if p.is_file()) <= 6 * SHARD + 100, "an id and locks beside the copies"


def test_interrupted_by_hand(caches, truth, monkeypatch):
    """Ctrl-C sends every row that was made."""
    fs, real, calls = Bucket(), disk.Writer.add, []

    def stopped(self, arrays):
        real(self, arrays)
        calls.append(1)
        if len(calls) == 40:
            raise KeyboardInterrupt
    monkeypatch.setattr(disk.Writer, "add", stopped)
    with pytest.raises(KeyboardInterrupt):
        compute(caches(fs=fs))
    made = compute(caches(fs=fs))
    assert made.note.startswith("Went on at row 640")
    same(made, truth)


def test_house_keeping(caches, truth):
    """What another machine writes at is passed over; unasked nothing goes."""
    fs = Bucket()
    store = caches(fs=fs)
    made = compute(store)
    row, = store.listing()
    assert (row["rows"], row["state"]) == (extraction.ROWS, "whole") and row["bytes"] == store.size()
    fields = [{"name": "v", "shape": [1], "dtype": "float32"}]
    other = caches(fs=fs)
    rows_into(other, other.place("d" * 64), fields, np.zeros((40, 1), "float32"), 20, 40).close()
    assert sorted(r["state"] for r in store.listing()) == ["unfinished", "whole"]
    assert [r["entry"] for r in store.prune(keep=0)] == [made.folder.name[:12]]
    store.discard("dddd")
    assert not store.listing() and not fs.store


# Training

def head():
    model = extraction.model()
    keras.utils.set_random_seed(1)
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def trained(cache, shuffle, epochs=1):
    model, labels = head(), np.arange(extraction.ROWS) % 4
    keras.utils.set_random_seed(2)
    fit(model, y=labels, cache=cache, epochs=epochs, shuffle=shuffle, batch_size=48, verbose=0)
    return model.get_weights()


@pytest.fixture
def tight(monkeypatch):
    """No memory for all features: they are streamed."""
    monkeypatch.setattr(memory, "free_memory", lambda: 1 << 18)


def test_a_url_is_a_cache(tmp_path, tight, monkeypatch):
    """`fit` takes a URL or a RemoteStore where it takes a folder."""
    monkeypatch.setenv("TRANSFERLIT_CACHE", str(tmp_path))
    (x, _), labels = extraction.data(), np.arange(extraction.ROWS) % 4
    weights = []
    for cache in (str(tmp_path / "folder"), f"memory://{tmp_path.name}", RemoteStore(f"memory://{tmp_path.name}", cache=tmp_path / "copies")):
        model = head()
        fit(model, x, labels, cache=cache, shuffle=False, batch_size=48, verbose=0)
        weights.append(model.get_weights())
    for a, b, c in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_views_take_turns(caches, tight):
    """Several passes of augmentation far away: each view cut out of its shards."""
    def jitter(x, seed):
        return x + np.random.default_rng(seed).normal(0, .1, x.shape).astype("float32")
    fs, more = Bucket(), dict(views=3, augment=jitter)
    compute(caches(fs=fs), **more)
    made, local = compute(caches(fs=fs, limit=8 * SHARD), **more), precompute(extraction.model(), *extraction.data(), batch_size=16, verbose=False, **more)
    assert made.note.startswith("Reused")
    for k in range(3):
        np.testing.assert_array_equal(made.view(k)[:][0], local.view(k)[:][0])
    for a, b in zip(trained(made, False, 4), trained(local, False, 4), strict=True):
        np.testing.assert_array_equal(a, b)


def test_streamed_in_order_it_is_as_in_memory(caches, truth, tight):
    fs = Bucket()
    compute(caches(fs=fs))
    small = compute(caches(fs=fs, limit=5 * SHARD))
    for a, b in zip(trained(truth, False, 2), trained(small, False, 2), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_epoch_fetches_each_shard_once_and_ahead(caches, tight, monkeypatch):
    """With a cache of a quarter of the store, shuffled; what the cache holds before changes nothing."""
    fs = Bucket(latency=0.002)
    compute(caches(fs=fs))
    store = caches(fs=fs, limit=8 * SHARD)
    made = compute(store)
    of_features = {far.blob_file(s["sha256"][0]) for s in made.folder.read("manifest.json")["shards"]}
    events, most, read = [], [], Blocks.stretches
    fs.fails = lambda verb, path: events.append("get") or most.append(on_disk(store)) if verb == "get" else None

    def watched(self, *args):
        for stretch in read(self, *args):
            events.append("train")
            yield stretch
    monkeypatch.setattr(Blocks, "stretches", watched)
    forget_copies(store)  # of the rows that were compared
    fs.log.clear()
    cold = trained(made, True, epochs=3)
    counts = {name: fs.got().count(name) for name in of_features}
    assert set(counts.values()) <= {2, 3}, "once in an epoch; less where the last ones of an epoch are the first of the next"
    assert max(most) <= 8 * SHARD
    first = events.index("train")
    assert events[:first].count("get") < 32, "training begins before all has come"
    assert events[first:].count("get") and "get" in events[first:len(events) - events[::-1].index("train")], "and more comes while it runs"
    warm = trained(made, True, epochs=3)
    roomy = compute(caches(fs=fs, limit=8 * SHARD))
    for a, b, c in zip(cold, warm, trained(roomy, True, epochs=3), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_training_stops_where_the_network_does(caches, tight):
    fs = Bucket()
    compute(caches(fs=fs))
    made = compute(caches(fs=fs, limit=8 * SHARD))
    fs.fails = lambda verb, path: OSError("no route to host") if verb == "get" else None
    with pytest.raises(OSError, match="no route to host"):
        trained(made, True)
    fs.fails = lambda verb, path: None
    trained(made, True)


# Damage

def test_damaged_objects_are_not_used(caches, truth):
    """A bit, a length, an absence; in blobs, the manifest and local copies: found when they are opened or read."""
    rng = random.Random(0)
    for kind in ("flip", "cut", "remove"):
        for what in ("manifest.json", ".bin"):
            fs = Bucket()
            compute(caches(fs=fs))
            name = rng.choice(sorted(path for n, path in objects(fs).items() if n.endswith(what)))
            content = bytearray(fs.store[name].getvalue())
            content[rng.randrange(len(content))] ^= 1
            if kind == "remove":
                fs.rm_file(name)
            else:
                MemoryFileSystem.pipe_file(fs, name, bytes(content[:-1] if kind == "cut" else content))
            other = caches(fs=fs)
            again = compute(other)
            if again.note.startswith("Reused"):  # a bit of a blob that was not compared: it shows when all is read
                assert (kind, what) == ("flip", ".bin")
                with pytest.raises(disk.Damaged, match="has changed"):
                    [np.asarray(a) for a in other.read(again.folder).arrays.values()]
                other.discard(again.folder)
                again = compute(other)
            same(again, truth)


def test_damaged_records_are_passed_over(caches, truth, monkeypatch):
    fs, put = Bucket(), far.Place.write
    monkeypatch.setattr(far.Place, "write", lambda self, name, content: put(self, name, content) if name != "manifest.json" else (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        compute(caches(fs=fs))
    monkeypatch.undo()
    monkeypatch.setattr(disk.shard_limits, "bytes", SHARD)
    tenth, = (name for name in fs.store if "/00010-" in name)
    MemoryFileSystem.pipe_file(fs, tenth, fs.store[tenth].getvalue().replace(b'"rows": 64', b'"rows": 63'))
    made = compute(caches(fs=fs))
    assert made.note.startswith("Went on at row 640")
    same(made, truth)


def test_damaged_copies_are_fetched_anew(caches, truth):
    store = caches(fs=Bucket())
    made = compute(store)
    for path in store.cache.folder.glob("??/*.bin"):
        data = bytearray(path.read_bytes())
        data[5] ^= 1
        path.write_bytes(data)
    same(compute(store), truth)


@linux
def test_processes_share_the_copies(tmp_path):
    """Three processes of four threads, and one that is killed: every byte right, and at no moment more copies than fit."""
    command = [sys.executable, copying.__file__, str(tmp_path)]
    users = [subprocess.Popen([*command, str(seed), "3"], stdout=subprocess.PIPE, text=True, env=ENV) for seed in range(3)]
    victim = subprocess.Popen([*command, "9", "60"], stdout=subprocess.DEVNULL, env=ENV)
    most = 0
    while any(user.poll() is None for user in users):
        with locked(tmp_path / "reserved"), suppress(FileNotFoundError):  # nobody begins to fetch, or removes anything, meanwhile
            found = [path.stat() for path in tmp_path.rglob("*.bin")]
            most = max(most, sum({stat.st_ino: stat.st_size for stat in found}.values()))
        if most and victim.poll() is None:
            victim.kill()
            victim.wait()
        time.sleep(0.02)
    assert all(user.returncode == 0 and int(user.stdout.read()) > 0 for user in users)
    assert 0 < most <= copying.FIT * copying.SIZE


# Rivals

def rows_into(store, place, fields, values, step, stop):
    writer = store.writer(place, fields)
    for i in range(writer.rows, stop, step):
        writer.add([values[i:i + step]])
        writer.seal()
    return writer


@pytest.mark.parametrize("first, second", [("ab", "ba"), ("ab", "ab")])
def test_rivals_cannot_harm_each_other(caches, first, second):
    """Two machines at one entry, with other shards: whoever finishes first is read, and stays readable."""
    fs, values, fields = Bucket(), np.arange(400, dtype="float32").reshape(-1, 1), [{"name": "v", "shape": [1], "dtype": "float32"}]
    stores = {name: caches(fs=fs) for name in "ab"}
    places = {name: store.place("c" * 64) for name, store in stores.items()}
    writers = {"a": rows_into(stores["a"], places["a"], fields, values, 50, 200), "b": None}
    writers["b"] = rows_into(stores["b"], places["b"], fields, values, 20, 400)  # goes on from the chain of `a`
    for i in range(200, 400, 50):
        writers["a"].add([values[i:i + 50]])
        writers["a"].seal()
    for name in second:
        stores[name].finish(writers[name], {"by": name})
        reader = caches(fs=fs)
        entry = reader.read(reader.place("c" * 64))
        assert entry.about["by"] == second[0]
        np.testing.assert_array_equal(entry.arrays["v"][:], values)
    assert all(n == "manifest.json" or n.endswith(".bin") for n in reader.place("c" * 64).sizes()), "the last one has tidied up"
    assert len(reader.place("c" * 64).sizes()) == 1 + len(entry.arrays["v"].parts)


@pytest.mark.parametrize("moment", ["comparing", "computing"])
@pytest.mark.parametrize("begun", [0, 320])
def test_what_a_rival_adds_meanwhile_moves_no_row(caches, monkeypatch, truth, begun, moment):
    """After this machine has read what is there, and before it writes, another one writes on, with shards of its own."""
    elsewhere, fs = caches(fs=Bucket()), Bucket()
    key = compute(elsewhere).key
    entry = elsewhere.read(elsewhere.place(key))
    rows = [np.asarray(a) for a in entry.arrays.values()]

    def add(stop, step=50):
        rival = caches(fs=fs)
        with rival.writer(rival.place(key), entry.fields) as writer:
            writer.note = {"error": 0.0, "beside": None}
            for i in range(writer.rows, stop, step):
                writer.add([a[i:min(i + step, stop)] for a in rows])
                writer.seal()

    if begun:
        add(begun)
    owner, name = {"comparing": (computing, "write_whole"), "computing": (RemoteStore, "writer")}[moment]
    original = getattr(owner, name)

    def late(*given, **more):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, original)  # the rival's own
            add(700)
        return original(*given, **more)

    monkeypatch.setattr(owner, name, late)
    made = compute(caches(fs=fs))
    assert made.note.startswith(f"Went on at row {begun}" if begun else "Computed")
    same(made, truth)
    assert compute(caches(fs=fs)).note.startswith("Reused")


@linux
def test_two_processes_write_one_entry(tmp_path, caches, truth):
    """Each with a cache of its own, as on two machines."""
    (tmp_path / "far").mkdir()
    url = f"file://{tmp_path}/far"
    both = [subprocess.Popen([sys.executable, extraction.__file__, "extract", url], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                             env={**ENV, "TRANSFERLIT_CACHE": str(tmp_path / f"home{i}")}) for i in range(2)]
    notes = [p.communicate(timeout=120)[0] for p in both]
    assert all(p.returncode == 0 for p in both), notes
    made = compute(caches(url))
    assert made.note.startswith("Reused")
    same(made, truth)


@linux
def test_killed_at_any_moment_the_chain_is_whole(tmp_path, caches, truth):
    """SIGKILL at random moments; what is there is right, the next run goes on, and the copies stay within reason."""
    (tmp_path / "far").mkdir()
    url, rng, kept = f"file://{tmp_path}/far", random.Random(0), 0
    forks = subprocess.Popen([sys.executable, extraction.__file__, "forks", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                             text=True, env={**ENV, "TRANSFERLIT_CACHE": str(tmp_path / "home")})
    try:
        for _ in range(ROUNDS):
            forks.stdin.write("go\n")
            forks.stdin.flush()
            child = int(forks.stdout.readline())
            time.sleep(rng.uniform(0.8, 1.6))
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
            assert forks.stdout.readline() == "gone\n"
            store = caches(url)
            for name in store.find_entries():
                if (entry := store.read(store.place(name)) or store.read_begun(store.place(name))) is not None:
                    assert entry.rows >= kept, "a whole shard was lost"
                    kept = entry.rows
                    np.testing.assert_array_equal(np.asarray(entry.arrays["hidden1"]), truth.arrays[0][:kept])
    finally:
        forks.stdin.close()
        forks.wait(60)
    made = compute(caches(url))
    assert made.note.startswith(("Went on", "Reused") if kept else "Computed")
    same(made, truth)


# A server that speaks the protocol of S3

@pytest.mark.skipif("TRANSFERLIT_S3" not in os.environ, reason="TRANSFERLIT_S3 names no server")
def test_a_bucket_of_s3(caches, truth, tight):
    options = dict(client_kwargs={"endpoint_url": os.environ["TRANSFERLIT_S3"]})
    fs = fsspec.filesystem("s3", **options)
    if not fs.exists("transferlit-test"):
        fs.mkdir("transferlit-test")
    url = "s3://transferlit-test/features"
    made = compute(caches(url, **options))
    same(made, truth)
    again = compute(caches(url, limit=8 * SHARD, **options))
    assert again.note.startswith("Reused")
    trained(again, True, epochs=2)
    print(again.folder, len(again.folder.sizes()), "objects")
    caches(url, **options).discard(again.folder)
    with pytest.raises(OSError, match="must be reachable"):
        compute(caches("s3://transferlit-nowhere/features", **options))
