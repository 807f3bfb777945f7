"""Damaged and hostile weight files: the right arrays or an error of ours, never a crash, a hang or a half-written model.

TRANSFERLIT_MUTATIONS sets how many mutations of each kind of file are tried (40; the full proof is 1000); TRANSFERLIT_SEED draws
others.
"""
import io
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf

import hostile_files
import transferlit as tl
from transferlit.errors import BadFile, MissingPart, UnsafeFile

MUTATIONS = int(os.environ.get("TRANSFERLIT_MUTATIONS", 40))
FIRST = int(os.environ.get("TRANSFERLIT_SEED", 0)) * 100_000
KINDS = {  # file, or the file of it that is mutated; and whether every byte of the arrays is under a checksum
    "m.keras": True, "m.safetensors": True, "m.npz": True, "packed.npz": True, "v1.ckpt": True, "v2.ckpt.index": True,
    "v2.ckpt.data-00000-of-00001": True, "objects.index": True, "m.weights.h5": False, "m.h5": False, "chunks.h5": False,
    "newer.h5": False, "plain.safetensors": False, "s.weights.json": False, "checkpoint": False,
}


def network():
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="hidden1"), layers.BatchNormalization(name="bn"), layers.Dense(2, name="logits")])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One model in every format."""
    from safetensors.numpy import save_file
    folder, model, v1 = tmp_path_factory.mktemp("files"), network(), tf.compat.v1
    arrays = {p: np.asarray(v) for p, v in tl.by_path(model).items()}
    for name in "m.keras", "m.safetensors", "m.weights.h5":
        tl.save(model, folder / name)
    model.save(folder / "m.h5")
    model.save_weights(folder / "s.weights.json", max_shard_size=3e-7)
    np.savez(folder / "m.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    save_file(arrays, folder / "plain.safetensors")
    for name, libver in ("chunks.h5", "earliest"), ("newer.h5", "latest"):
        with h5py.File(folder / name, "w", libver=libver) as f:
            for path, array in arrays.items():
                f.create_dataset(path, data=array, chunks=array.shape, compression="gzip", shuffle=True, fletcher32=libver == "earliest")
    tf.train.Checkpoint(model=model).write(str(folder / "objects"))
    with tf.Graph().as_default(), v1.Session() as session:
        made = [v1.get_variable(p, initializer=a) for p, a in arrays.items()]
        session.run([v.initializer for v in made])
        v1.train.Saver(write_version=1).save(session, str(folder / "v1.ckpt"), write_meta_graph=False)
        v1.train.Saver().save(session, str(folder / "v2.ckpt"))
    return folder


def mutated(data, rng):
    """Bytes flipped, cut off, copied elsewhere, zeroed or inserted."""
    data, size = bytearray(data), len(data)
    at, length = rng.randrange(size), rng.randrange(1, 64)
    match rng.randrange(6):
        case 0 | 1:
            for _ in range(rng.choice([1, 1, 2, 8, 32])):
                data[rng.randrange(size)] ^= 1 << rng.randrange(8)
        case 2:
            del data[at:]
        case 3:
            start = rng.randrange(size)
            data[at:at + length] = data[start:start + length]
        case 4:
            data[at:at + length] = bytes([rng.choice([0, 255])]) * len(data[at:at + length])
        case 5:
            data[at:at] = rng.randbytes(length)
    return bytes(data)


def read_all(path):
    with tl.open_weights(path) as weights:
        return {v.key: np.asarray(v) for v in weights.values()}


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and (a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes())


@pytest.mark.parametrize("kind", KINDS)
def test_mutations(files, tmp_path, kind):
    """Right arrays, or an error of ours; and a model that is as it was, or holds what the file says."""
    for source in files.iterdir():
        shutil.copy(source, tmp_path)
    whole, target = (files / kind).read_bytes(), tmp_path / kind
    right, model = read_all(files / kind), network()
    variables = tl.by_path(model)
    refused, count = 0, MUTATIONS // 5 if kind == "newer.h5" else MUTATIONS  # that one is read in a process of its own
    for seed in range(FIRST, FIRST + count):
        target.write_bytes(mutated(whole, random.Random(seed)))
        for v in variables.values():
            v.assign(np.full(v.shape, 7.0))
        try:
            found = read_all(target)
        except BadFile:
            refused += 1
            found = None
        except FileNotFoundError:
            assert kind == "checkpoint"
            found = None
        if found and KINDS[kind]:
            for key, array in found.items():
                assert key not in right or same(array, right[key]), f"mutation {seed}: {key} is wrong"
        try:
            done = tl.restore(model, target, skip=None)
        except (ValueError, FileNotFoundError):
            assert all((np.asarray(v) == 7).all() for v in variables.values()), f"mutation {seed}: half written"
        else:
            with tl.open_weights(target) as weights:
                for row in done.of("restored"):
                    assert np.array_equal(np.asarray(variables[row["path"]]), np.asarray(weights[row["file"]]), equal_nan=True)
    print(f"{kind}: {count} mutations, {refused} refused")


COST = 3, 500 << 20  # seconds of computing and bytes of memory, the most that one file may take


def read_in_a_child(paths):
    """Outcome and seconds of each file, read under a limit of memory in a process of its own."""
    script = Path(__file__).parents[1] / "processes" / "reading.py"
    done = subprocess.run([sys.executable, str(script), str(COST[1])], input="\n".join(map(str, paths)), capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(tl.__file__).parents[1]), os.environ.get("PYTHONPATH")]))})
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(paths), f"died at {paths[len(rows)].name}: {done.stderr[-500:]}"
    return rows


def faults(rows):
    return [row for row in rows if not row[1].startswith(("read", "refused", "FileNotFoundError")) or row[2] > COST[0] or "MemoryError" in row[1]]


def test_small_files_cost_little(tmp_path):
    """Names, links, blocks and bytes that are named again and again: refused, or read at the cost that a file may have."""
    rows = read_in_a_child(hostile_files.costly(tmp_path))
    assert not faults(rows), faults(rows)
    said = {name: outcome for name, outcome, _ in rows}
    assert all("must lie apart" in said[name] for name in ("place.index", "overlap.npz", "block.index")), said
    assert all("may take" in said[name] for name in ("doubled.h5", "keys.index", "chain.index", "lists.h5", "json.keras", "layers.keras", "two-ways.keras")), said
    assert all("refused" in said[name] for name in ("over.index", "gap.index", "twice.index", "shifted.index")), "numbers that nobody saved"


def restructured(files, kind, folder):
    """Files of one kind with something of their structure changed, each beside the others that were there."""
    count = MUTATIONS // 20 + 1 if kind == "newer.h5" else MUTATIONS
    whole, paths = (files / kind).read_bytes(), [folder / f"{kind}{seed}" / kind for seed in range(FIRST, FIRST + count)]
    for seed, path in enumerate(paths, FIRST):
        shutil.copytree(files, path.parent, copy_function=os.link)
        path.unlink()
        path.write_bytes(hostile_files.changed(kind, whole, seed, folder))
    return paths


def test_structures_that_lie(files, tmp_path):
    """Offsets, counts, sizes and names are changed where the format has them, and checksums made right again."""
    paths = {kind: restructured(files, kind, tmp_path) for kind in KINDS}
    rows = read_in_a_child([path for made in paths.values() for path in made])
    assert not faults(rows), faults(rows)
    for kind, made in paths.items():
        of_kind, rows = rows[:len(made)], rows[len(made):]
        print(f"{kind}: {len(made)} files, {sum(r[1].startswith('refused') for r in of_kind)} refused, at most {max(r[2] for r in of_kind)} s")


def test_half_a_letter_is_no_name(tmp_path):
    """JSON can write a half of a surrogate pair, which no file and no terminal takes."""
    path = tmp_path / "m.safetensors"
    hostile_files.safetensors(path, {"d/\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))
    with pytest.raises(BadFile, match="surrogates"):
        tl.open_weights(path)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_type_with_a_name_is_no_array(libver, tmp_path):
    with h5py.File(tmp_path / "m.h5", "w", libver=libver) as file:
        file["w"], file["kind"] = np.ones(3, "f4"), np.dtype("f8")
    assert list(read_all(tmp_path / "m.h5")) == ["w"]
