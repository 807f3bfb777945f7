"""What the tests of stored features run in processes of their own.

    python extraction.py forks STORE     forks a process that extracts, for each line read; prints its process id
    python extraction.py extract STORE   extracts once and prints what was done
    python extraction.py larger STORE    extracts more than the memory it allows itself to have
    python extraction.py "ray arrays" STORE, or "ray dataset"   extracts by the workers of a Ray of its own
"""
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

ROWS = 2000


def model():
    import keras
    keras.utils.set_random_seed(0)
    made = keras.Sequential([keras.Input((6,)), keras.layers.Dense(16, "tanh", name="hidden1"), keras.layers.Dense(4, name="logits")])
    made.get_layer("hidden1").trainable = False
    return made


def data(rows=ROWS):
    return np.random.default_rng(0).normal(size=(rows, 6)).astype("float32"), np.arange(rows)


def extract(store, batch_size=16, shard_bytes=4096):
    from transferlit.store import local as disk
    from transferlit.features import precompute
    disk.shard_limits.bytes = shard_bytes
    return precompute(model(), *data(), store=store, batch_size=batch_size, verbose=False)


def forks(store):
    import transferlit.features.computing  # noqa: F401  once, so that each fork begins at once; nothing is computed before the fork
    for _ in sys.stdin:
        if not (child := os.fork()):
            try:
                extract(store)
            finally:
                os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


def larger(store, times=8):
    """A body that widens each row 64 times, `times` the memory the process may still take."""
    import keras
    from transferlit.features import precompute
    wide = keras.Sequential([keras.Input((64,)), keras.layers.Dense(4096, "relu", name="wide"), keras.layers.Dense(1, name="head")])
    wide.get_layer("wide").trainable = False
    precompute(wide, np.zeros((512, 64), "float32"), verbose=False)  # whatever TensorFlow takes for itself
    allowed = 192 << 20
    rows = times * allowed // (4096 * 4)
    x = np.random.default_rng(0).normal(size=(rows, 64)).astype("float32")
    held = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (held + allowed,) * 2)
    made = precompute(wide, x, store=store, verbose=False)
    made.verify(8)
    try:
        precompute(wide, x, verbose=False)
        print("fits in memory")
    except MemoryError:
        print(f"{made.nbytes} bytes with {allowed} to spare")


def by_ray(store, source):
    import ray
    from transferlit.features import precompute
    workers = int(os.environ.get("TRANSFERLIT_RAY_WORKERS", 2))
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, object_store_memory=128 << 20, _node_ip_address="127.0.0.1")
    x, y = data(8000)
    given = (x, y) if source == "arrays" else (ray.data.from_items([{"x": a, "y": int(b)} for a, b in zip(x, y)], override_num_blocks=20),)
    print(precompute(model(), *given, store=store, batch_size=2, engine="ray", workers=workers, verbose=False).note)


if __name__ == "__main__":
    verb, place = sys.argv[1:]
    if verb == "extract":
        start = time.time()
        print(extract(place).note, f"{time.time() - start:.2f} s")
    elif verb.startswith("ray"):
        by_ray(place, verb.split()[1])
    else:
        {"forks": forks, "larger": larger}[verb](place)
