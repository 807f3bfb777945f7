"""Extraction by a real Ray on this machine: workers and drivers killed while they run, bad rows, another engine's store.

TRANSFERLIT_RAY_WORKERS says how many workers (2 by default), TRANSFERLIT_RAY_ROUNDS how often a driver is killed (none by
default: each round starts a Ray of its own; workers of a Dataset are killed only then, too).
"""
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import extraction
from transferlit.features import ray_workers as actors
from transferlit.features.ray_dataset import Columns
from transferlit.features import precompute
from transferlit.store.local import find_entries, read

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'transferlit[ray]'")
import pyarrow.parquet  # noqa: E402  comes with Ray's extra
WORKERS = int(os.environ.get("TRANSFERLIT_RAY_WORKERS", 2))
ROWS = 8000  # enough for a piece to take a while
ROUNDS = int(os.environ.get("TRANSFERLIT_RAY_ROUNDS", 0))
SETTINGS = dict(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, object_store_memory=128 << 20, _node_ip_address="127.0.0.1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Where workers put temporary files comes out of it, too. A `runtime_env` would say it as well, but then Ray starts
    its processes twice.
    """
    folder = tmp_path_factory.mktemp("workers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # sockets of Ray, whose paths must be short
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(**SETTINGS)
    yield folder
    ray.shutdown()


@pytest.fixture(scope="module")
def truth():
    return precompute(extraction.model(), *extraction.data(ROWS), batch_size=2, verbose=False)


def writers(folder):
    """Process ids of workers that are in the middle of a piece: the name of what they write says whose it is."""
    parts = [*Path(folder).glob("*/.pieces/.*~*/.*.part"), *Path(folder).glob("*/.*~*/.*.part")]  # in a store; on the way to one far away
    return sorted({int(p.name.split("~")[1].rpartition("-")[2]) for p in parts})


class Killer(threading.Thread):
    """Kills `times` workers, each in the middle of a piece."""

    def __init__(self, store, times):
        super().__init__(daemon=True)
        self.store, self.times, self.killed, self.over = store, times, [], threading.Event()

    def run(self):
        while len(self.killed) < self.times and not self.over.wait(0.002):
            for pid in [pid for pid in writers(self.store) if pid not in self.killed][:1]:
                os.kill(pid, signal.SIGKILL)
                self.killed.append(pid)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def same(made, truth):
    np.testing.assert_array_equal(made.arrays[0][:], truth.arrays[0])
    np.testing.assert_array_equal(made.y[:], truth.y)
    np.testing.assert_array_equal(made.row_ids[:], truth.row_ids)


def test_stopped_and_killed_nothing_is_lost_or_doubled(cluster, tmp_path, truth, monkeypatch):
    """The driver stops after two pieces; the next one goes on, while a worker is killed; the outcome is what one process makes."""
    def call():
        return precompute(extraction.model(), *extraction.data(ROWS), store=tmp_path, batch_size=2, engine="ray", workers=WORKERS, verbose=False)

    add, added = actors.Joined.add, []

    def stop(self, about, ids):
        add(self, about, ids)
        added.append(about["tag"])
        if len(added) == 2:
            raise KeyboardInterrupt
    monkeypatch.setattr(actors.Joined, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        call()
    monkeypatch.undo()
    folder, = find_entries(tmp_path)
    assert read(folder) is None

    with Killer(tmp_path, 1) as killer:
        made = call()
    assert len(killer.killed) == 1
    assert made.note.startswith("Went on at row")
    same(made, truth)
    assert read(folder).rows == len(truth) and not (folder / ".pieces").exists()
    again = precompute(extraction.model(), *extraction.data(ROWS), store=tmp_path, verbose=False)
    assert again.note.startswith("Reused") and again.folder == folder


def test_workers_send_what_they_make(cluster, tmp_path, truth, monkeypatch):
    """Into a store far away: a driver that stopped, a worker killed; features do not pass through the driver, and a laptop finds them."""
    from transferlit.store import remote as far
    from transferlit.store.remote import RemoteStore
    (tmp_path / "far").mkdir()
    store, sent, put = RemoteStore(f"file://{tmp_path}/far", cache=tmp_path / "cache"), [], far.Files.put
    monkeypatch.setattr(far.Files, "put", lambda self, name, content: sent.append((name, content)) or put(self, name, content))

    def call():
        return precompute(extraction.model(), *extraction.data(ROWS), store=store, batch_size=2, engine="ray", workers=WORKERS, verbose=False)
    add, added = actors.Joined.add, []

    def stop(self, about, ids):
        add(self, about, ids)
        added.append(about["tag"])
        if len(added) == 2:
            raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(actors.Joined, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            call()
    with Killer(cluster, 1) as killer:
        made = call()
    assert len(killer.killed) == 1 and made.note.startswith("Went on at row")
    same(made, truth)
    blobs = sum(len(content) for name, content in sent if name.endswith(".bin"))
    assert blobs == 8 * ROWS, "row ids are all that the driver has sent"
    assert all(name == "manifest.json" or name.endswith(".bin") for name in made.folder.sizes())
    laptop = RemoteStore(f"file://{tmp_path}/far", cache=tmp_path / "laptop")
    again = precompute(extraction.model(), *extraction.data(ROWS), store=laptop, verbose=False)
    assert again.note.startswith("Reused")
    local = precompute(extraction.model(), *extraction.data(ROWS), store=tmp_path / "local", batch_size=2, verbose=False)
    assert local.key == made.key and local.folder.name == made.folder.name


@pytest.mark.skipif(not ROUNDS, reason="TRANSFERLIT_RAY_ROUNDS is 0")
def test_memory_of_one_machine_is_no_store_for_many(cluster, tmp_path):
    with pytest.raises(FileNotFoundError, match="where all of them see it"):
        precompute(extraction.model(), *extraction.data(), store="memory://driver", batch_size=2, engine="ray", workers=WORKERS, verbose=False)


def test_a_dataset_keeps_its_order_and_names_bad_rows(cluster, tmp_path, truth, monkeypatch):
    """Parquet in, a row unreadable and one of another shape; what is stored is found from tf.data without them. Each call
    looks at the first rows once.
    """
    x, y = extraction.data(ROWS)
    values = [row.tobytes() for row in x]
    values[17], values[6500] = b"broken", values[6500][:8]
    (tmp_path / "rows").mkdir()
    for i in range(0, len(x), 1600):
        pyarrow.parquet.write_table(pyarrow.table({"row": values[i:i + 1600], "label": y[i:i + 1600]}), tmp_path / "rows" / f"{i:05d}.parquet")
    columns = Columns(ray.data.read_parquet(str(tmp_path / "rows")), "row", "label", read=lambda b: np.frombuffer(b, "float32"))
    looks, take_batch = [], ray.data.Dataset.take_batch
    monkeypatch.setattr(ray.data.Dataset, "take_batch", lambda self, *given: looks.append(given) or take_batch(self, *given))
    small = 2 if ROUNDS else 200  # small batches take a worker as long as it takes to kill it
    call = dict(store=tmp_path / "store", engine="ray", workers=WORKERS, batch_size=small, verbose=False)
    with pytest.raises(ValueError, match="Received: row 17: ValueError"):
        precompute(extraction.model(), columns, **call)
    with Killer(tmp_path / "store", 1 if ROUNDS else 0) as killer:
        made = precompute(extraction.model(), columns, **call, on_bad_row="skip")
    assert looks == [(16,)] * 2
    good = np.delete(np.arange(len(x)), [17, 6500])
    assert len(killer.killed) == killer.times
    assert [row for row, _ in made.skipped] == [17, 6500] and "2 bad rows were left out" in repr(made)
    same(made, truth.take(good))
    pipeline = tf.data.Dataset.from_tensor_slices((x[good], y[good])).batch(100)
    again = precompute(extraction.model(), pipeline, store=tmp_path / "store", verbose=False)
    assert again.note.startswith("Reused") and again.folder == made.folder


@pytest.mark.skipif(not ROUNDS, reason="TRANSFERLIT_RAY_ROUNDS is 0")
@pytest.mark.parametrize("source", ["arrays", "dataset"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_killed_driver_leaves_what_the_next_one_takes_up(tmp_path, truth, source, scheme):
    """SIGKILL to drivers at random moments; the last one is left alone."""
    rng, went_on = random.Random(0), 0
    command = [sys.executable, extraction.__file__, f"ray {source}", f"{scheme}{tmp_path}"]
    env = {**os.environ, "TRANSFERLIT_CACHE": str(tmp_path.with_name("home")), "TF_CPP_MIN_LOG_LEVEL": "3", "RAY_USAGE_STATS_ENABLED": "0"}
    for _ in range(ROUNDS):
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        while driver.poll() is None and not [*tmp_path.glob("*/.pieces/[!.]*"), *tmp_path.glob("*/pieces/*.json")]:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        driver.kill()
        driver.wait()
    out = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
    went_on += "Went on at row" in out or "Reused" in out
    if scheme:
        from transferlit.store.remote import RemoteStore
        store = RemoteStore(f"{scheme}{tmp_path}", cache=tmp_path / "cache")
        name, = store.find_entries()
        entry = store.read(store.place(name))
    else:
        folder, = find_entries(tmp_path)
        entry = read(folder)
    np.testing.assert_array_equal(entry.arrays["@row"][:], truth.row_ids)
    np.testing.assert_array_equal(entry.arrays["hidden1"][:], truth.arrays[0])
    assert went_on
