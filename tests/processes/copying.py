"""What the test of shared cache runs in processes of its own: python copying.py FOLDER SEED SECONDS"""
import hashlib
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transferlit.store.blob_cache import Blob, BlobCache

SIZE, ALL, FIT = 4096, 40, 8  # bytes of a blob; how many there are; how many fit


class Far:
    """Far away, where bytes follow from their name."""

    def read(self, name):
        return hashlib.sha256(name.encode()).digest() * (SIZE // 32)

    def get(self, name, path):
        Path(path).write_bytes(self.read(name))
        time.sleep(0.001)


def use(folder, seed, seconds):
    """Four threads read blobs at random; returns how many."""
    far, cache, rng, done, stop = Far(), BlobCache(Path(folder), FIT * SIZE), random.Random(seed), 0, time.monotonic() + seconds
    blobs = [Blob(far, str(i), hashlib.sha256(far.read(str(i))).hexdigest(), SIZE) for i in range(ALL)]

    def one(i):
        with cache.using(blobs[i]) as data:
            assert bytes(data) == far.read(str(i))
    with ThreadPoolExecutor(4) as pool:
        while time.monotonic() < stop:
            done += len([*pool.map(one, [rng.randrange(ALL) for _ in range(40)])])
    return done


if __name__ == "__main__":
    print(use(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
