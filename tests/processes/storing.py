"""What the tests of stores run in processes of their own; it needs no TensorFlow, so a writer begins at once.

    python storing.py     for each line `STORE CACHE KEY SEED` forks a writer of that entry, and prints its process id
"""
import os
import random
import signal
import sys
import time

import numpy as np

from transferlit.store import Damaged, RemoteStore, open_store, shard_limits

FIELDS = [{"name": "v", "shape": [4], "dtype": "float32"}, {"name": "label", "shape": [], "dtype": "int64"}]
ROWS, STEP = 300, 20


def opened(url, cache):
    return RemoteStore(url, cache=cache, limit=1 << 20) if "://" in url else open_store(url)


def values(key):
    """All rows of an entry follow from its key."""
    rng = np.random.default_rng(int(key[:8], 16))
    return [rng.normal(size=(ROWS, 4)).astype("float32"), rng.integers(0, 1 << 40, ROWS)]


def same(entry, key):
    """Are the rows the first ones of this key?"""
    truth = values(key)
    return all(np.array_equal(np.asarray(entry.arrays[f["name"]]), a[:entry.rows]) for f, a in zip(FIELDS, truth, strict=True))


def write(store, key, shard_bytes=None, pause=lambda: None):
    """Make an entry whole, behind whatever is there; returns how many rows were there."""
    place = store.place(key)
    with store.locked(place):
        try:
            if store.read(place):
                return ROWS
        except Damaged:
            store.discard(place)
        with store.writer(place, FIELDS) as writer:
            writer.shard_bytes = shard_bytes or writer.shard_bytes
            there = writer.rows
            for i in range(there, ROWS, STEP):
                writer.add([a[i:i + STEP] for a in values(key)])
                pause()
            store.finish(writer, {"key": key})
    return there


def slowly(seed):
    rng = random.Random(seed)
    return lambda: time.sleep(rng.uniform(0, 0.004))


def serve():
    import fsspec.implementations.local  # noqa: F401  once, so that each writer begins at once
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who has ended is gone at once
    for line in sys.stdin:
        url, cache, key, seed = line.split()
        if not (child := os.fork()):
            signal.signal(signal.SIGINT, signal.default_int_handler)  # also where pytest runs in the background
            try:
                shard_limits.bytes = random.Random(seed).choice([960, 1920, 4800])
                write(opened(url, cache), key, pause=slowly(seed))
            finally:
                os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    serve()
