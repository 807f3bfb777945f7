"""Whatever a path leads to: the checkpoint that is meant, or what it is instead and what to do with it."""
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import transferlit as tl
from transferlit.files import file_hash
from transferlit.errors import UnsafeFile
from transferlit.formats import location
from transferlit.sharing import _by_fingerprint

v1 = tf.compat.v1


def saved(prefix, units, **options):
    with tf.Graph().as_default(), v1.Session() as session:
        tf.matmul(v1.placeholder(tf.float32, [None, 3], "x"), v1.get_variable("w", [3, units]), name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver(**options).save(session, str(prefix))


def escaped(name, how):
    return "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else how.format(b) for b in name.encode())


@pytest.mark.parametrize("how", ["\\{:03o}", "\\x{:02x}"])
@pytest.mark.parametrize("write", ["{}", "/home/somebody/run/{}", "./{}", "C:\\\\run\\\\{}"])
def test_the_last_checkpoint_is_the_one_its_state_names(tmp_path, how, write):
    names = ["first.ckpt-1", '학습 "끝".ckpt-2']
    for units, name in enumerate(names, 2):
        saved(tmp_path / name, units)
    last = write.format(escaped(names[1], how))
    (tmp_path / "checkpoint").write_text(f'# of a run\nall_model_checkpoint_paths: "{names[0]}"\nmodel_checkpoint_path: "{last}"\n')
    with tl.open_weights(tmp_path) as weights:
        assert weights["w"].shape == (3, 3)
    assert tl.revive(tmp_path).to_keras().output_shape[-1] == 3


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["", "m.ckpt", "m.ckpt-100", "빈 칸"])
def test_every_file_of_a_checkpoint_leads_to_it(tmp_path, name, version):
    if version == 1 and not name:
        pytest.skip("TensorFlow 1 wrote one file, which needs a name")
    saved(f"{tmp_path}/{name}", 2, write_version=version)
    paths = [f"{tmp_path}/{name}", tmp_path, *(p for p in tmp_path.iterdir())]
    assert len(paths) >= 5
    for path in paths:
        assert list(tl.open_weights(path)) == ["w"], path
        assert tl.revive(path).to_keras().output_shape == (None, 2), path


FOREIGN = {
    "pointer.h5": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"), "page.ckpt": (b"<!DOCTYPE html>", "web page"),
    "m.pkl": (b"\x80\x04\x95", "pickle"), "m.onnx": (b"\x08\x08\x12\x07pytorch", "ONNX"), "m.tflite": (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
    "m.tar.gz": (b"\x1f\x8b\x08\0", "Unpack"), "m.json": (b'{"class_name": "Sequential", "config": {}}', "architecture"), "notes.ckpt": (b"hello", "text file"),
    "m.npy": (b"\x93NUMPY\x01\0", "one array"), "odd.bin": (b"\x01\xfe" * 40, "another framework"), "m.gguf": (b"GGUF\3\0\0\0", "GGUF"), "empty": (b"", "empty"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_cannot_be_read_is_named(tmp_path, name):
    data, word = FOREIGN[name]
    (tmp_path / name).write_bytes(data)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    for use in tl.peek, tl.revive, lambda path: tl.plan(model, path), lambda path: tl.restore(model, path):
        with pytest.raises(ValueError, match=word):
            use(tmp_path / name)


@pytest.mark.parametrize("name", ["a" * 1000, "b/" * 100_000 + "c", "가" * 100, "a\0"])
def test_a_name_that_no_file_can_have_is_that_of_a_missing_one(tmp_path, name):
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{name}"')
    (tmp_path / "m.safetensors.index.json").write_text('{"weight_map": {"a": "%s"}}' % name.replace("/", "").replace("\0", "\\u0000"))
    for path in tmp_path.iterdir():
        with pytest.raises((FileNotFoundError, ValueError), match="must lie beside it|needs all its shards") as raised:
            tl.peek(path)
        assert len(str(raised.value)) < 1000


def test_a_file_that_comes_while_it_is_looked_for_is_read(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="d")])

    def comes(path):
        monkeypatch.undo()
        return tl.save(model, path)
    monkeypatch.setattr(location, "readable", comes)
    assert set(tl.open_weights(tmp_path / "m.safetensors")) == {"d/kernel", "d/bias"}


def test_arrays_are_for_restore_and_graphs_for_revive(tmp_path):
    from safetensors.numpy import save_file
    save_file({"a": np.ones(3, "float32")}, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", a=np.ones(3))
    saved(tmp_path / "bare.ckpt", 2)
    (tmp_path / "bare.ckpt.meta").unlink()
    for name in "w.safetensors", "w.npz", "bare.ckpt":
        with pytest.raises(ValueError, match="tl.restore"):
            tl.revive(tmp_path / name)
    with tf.Graph().as_default() as graph:
        tf.constant(1., name="one")
    for name, data in {"g.pb": graph.as_graph_def().SerializeToString(), "g.pbtxt": str(graph.as_graph_def()).encode()}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="tl.revive"):
            tl.peek(tmp_path / name)


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_revive_follows_no_link(tmp_path, suffix):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False, name="d")])
    model.save(tmp_path / f"m.{suffix}")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.full((2, 2), 42, "float32")

    def relink(path):
        with h5py.File(path, "r+") as file:
            found = []
            file.visititems(lambda name, node: found.append(name) if isinstance(node, h5py.Dataset) and node.shape == (2, 2) else None)
            for name in found:
                del file[name]
                file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")

    if suffix == "h5":
        relink(tmp_path / "m.h5")
    else:
        import zipfile
        with zipfile.ZipFile(tmp_path / "m.keras") as old:
            old.extractall(tmp_path / "parts")
        relink(tmp_path / "parts" / "model.weights.h5")
        with zipfile.ZipFile(tmp_path / "m.keras", "w") as new:
            for part in (tmp_path / "parts").iterdir():
                new.write(part, part.name)
    with pytest.raises(UnsafeFile, match="must hold its arrays itself"):
        tl.revive(tmp_path / f"m.{suffix}")


def test_a_share_that_is_cut_short_anywhere_leaves_one_model(tmp_path, monkeypatch):
    """The process ends before each of the steps that rename a file, in turn."""
    x, folder = np.ones((2, 3), "float32"), tmp_path / "shared"

    def network(value): return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(value), name="d")])
    old, new, cuts = network(1.), network(2.), 0
    for after in range(20):
        tl.share(old, folder)
        left, rename, replace = [after], os.replace, type(folder).replace

        def cut(move):
            def step(*args):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return move(*args)
            return step
        with monkeypatch.context() as m:
            m.setattr(os, "replace", cut(rename))
            m.setattr(type(folder), "replace", cut(replace))
            try:
                tl.share(new, folder)
            except KeyboardInterrupt:
                cuts += 1
        got = np.asarray(tl.shared(folder)(x))
        assert any(np.array_equal(got, np.asarray(m(x))) for m in (old, new)), f"after {after} steps: neither"
        if left[0] >= 0:
            break
    assert cuts >= 4 and np.array_equal(got, np.asarray(new(x)))
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert not (folder / _by_fingerprint(file_hash(folder / "model.safetensors"))).exists()
