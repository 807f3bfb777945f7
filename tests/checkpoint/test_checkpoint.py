"""Saving under ill treatment, old files as people have them, and the article's own checkpoint.

TRANSFERLIT_KILLS sets how many times a save is killed, and how many times one is interrupted (4); TRANSFERLIT_PAIRS how many
pairs of rivals save to one path (5); TRANSFERLIT_SEED makes the draws others.
"""
import io
import json
import os
import random
import resource
import signal
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf

import transferlit as tl
from transferlit.demo import dnn
from transferlit.keras_internals import keras_version

layers, v1 = keras.layers, tf.compat.v1
KILLS = int(os.environ.get("TRANSFERLIT_KILLS", 4))
PAIRS = int(os.environ.get("TRANSFERLIT_PAIRS", 5))
SEED = os.environ.get("TRANSFERLIT_SEED", "")
ENDS = pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
SUFFIXES = ".keras", ".weights.h5", ".safetensors", ".ckpt"
ROOT = Path(os.environ.get("TRANSFERLIT_CHECKPOINTS", ""))
SET = json.loads((ROOT / "manifest.json").read_text("utf-8")) if (ROOT / "manifest.json").is_file() else []
DIGITS = Path(os.environ.get("TRANSFERLIT_DATA", "none")) / "mnist.npz"


def filled(model, value):
    for v in model.weights:
        v.assign(np.full(v.shape, value))
    return model


def wide(value=0.0):
    return filled(keras.Sequential([keras.Input((1000,)), layers.Dense(1000, name="a"), layers.Dense(300, name="b")]), value)


def held(path):
    """The one value that all numbers in a file have."""
    with tl.open_weights(path) as weights:
        values = {float(n) for v in weights.of_kind("model").values() for n in np.unique(np.asarray(v))}
    assert len(values) == 1
    return values.pop()


def in_child(work):
    """Run `work` in a forked process, which ends with it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until the child is ready for it
    if child := os.fork():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        return child
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # also where pytest runs in the background
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        work()
    except BaseException:
        os._exit(3)
    os._exit(0)


def forever(work):
    while True:
        work()


def end(child, how):
    """It had not ended by itself. Ctrl-C in a destructor is lost, so people press it again."""
    status = None
    while status is None:
        os.kill(child, how)
        deadline = time.monotonic() + 2
        while status is None and time.monotonic() < deadline:
            done, ended = os.waitpid(child, os.WNOHANG)
            status = ended if done else time.sleep(0.002)
    assert os.WIFSIGNALED(status) if how == signal.SIGKILL else os.WEXITSTATUS(status) == 3


@ENDS
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_in_the_middle_of_a_save(tmp_path, suffix, how):
    """The old file or the new one, each whole; what is left behind is hidden, taken for no model, and cleared."""
    path, model, rng = tmp_path / f"m{suffix}", wide(1), random.Random(SEED + suffix)
    tl.save(model, path)
    started = time.perf_counter()
    tl.save(model, path)
    took = time.perf_counter() - started
    for i in range(max(1, KILLS // len(SUFFIXES))):
        child = in_child(lambda: forever(lambda: tl.save(filled(model, 2 + i), path)))
        time.sleep(rng.uniform(0, 3 * took))
        end(child, how)
        assert held(path) in {1.0, *(2.0 + n for n in range(i + 1))}
        with tl.open_weights(tmp_path) as found:
            assert Path(found.path).name == path.name
    tl.save(filled(model, 9), path)
    assert held(path) == 9
    hidden = [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert hidden == ([".m.ckpt.lock"] if suffix == ".ckpt" else [])
    assert len(list(tmp_path.iterdir())) - len(hidden) == (2 if suffix == ".ckpt" else 1)
    print(f"{suffix}: {how.name} {i + 1} times, all whole")


def by_share(model, source, path):
    tl.share(model, path)


def by_convert(model, source, path):
    tl.convert(tl.save(model, source), path)


def by_command(model, source, path):
    from transferlit.cli import app

    app(["convert", str(tl.save(model, source)), str(path)], standalone_mode=False)


WRITERS = {"shared": by_share, "m.ckpt": by_convert, "m.safetensors": by_convert, "m.npz": by_command}


def value_of(path):
    """The one value in a file or a shared folder."""
    if path.suffix:
        return held(path)
    (found,) = {float(n) for w in tl.shared(path).get_weights() for n in np.unique(w)}
    return found


@ENDS
@pytest.mark.parametrize("name", WRITERS)
def test_killed_in_the_middle_of_what_writes(tmp_path, name, how, capfd):
    """The old one or the new one, for a shared folder, a file that is converted, and the command line."""
    write, model, rng = WRITERS[name], wide(1), random.Random(SEED + name)
    path, source = tmp_path / name, tmp_path / "source.safetensors"
    write(model, source, path)
    started = time.perf_counter()
    write(model, source, path)
    took = time.perf_counter() - started
    for i in range(max(1, KILLS // len(WRITERS))):
        child = in_child(lambda: forever(lambda: write(filled(model, 2 + i), source, path)))
        time.sleep(rng.uniform(0, 3 * took))
        end(child, how)
        assert value_of(path) in {1.0, *(2.0 + n for n in range(i + 1))}
    write(filled(model, 9), source, path)
    assert value_of(path) == 9
    with capfd.disabled():
        print(f"{name}: {how.name} {i + 1} times, all whole")


RIVALS = [f"m{suffix}" for suffix in SUFFIXES] + ["shared"]


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_and_a_reader(tmp_path, name):
    """Two processes write one path at once, and this one reads meanwhile: always one whole model, in the end one of theirs."""
    path, write = tmp_path / name, tl.save if Path(name).suffix else tl.share
    model = filled(keras.Sequential([keras.Input((60,)), layers.Dense(40, name="a"), layers.Dense(9, name="b")]), 1)
    write(model, path)
    reads, pairs = 0, max(1, PAIRS // len(RIVALS))
    for i in range(pairs):
        mine = [2.0 + 2 * i, 3.0 + 2 * i]
        pair = {in_child(lambda: [write(filled(model, value), path) for _ in range(3)]) for value in mine}
        while pair:
            done, status = os.waitpid(-1, os.WNOHANG)
            assert status == 0, "a rival failed"
            pair.discard(done)
            value_of(path)
            reads += 1
        assert value_of(path) in mine
    print(f"{name}: {pairs} pairs, {reads} reads of a whole one meanwhile")


def test_a_shared_folder_is_read_beside_its_writer(tmp_path):
    """One model after the other, with other activations: weights and architecture always of the same one."""
    def one(value, activation):
        return filled(keras.Sequential([keras.Input((300,)), layers.Dense(200, activation, name="a")]), value)

    models = [one(1.0, "relu"), one(2.0, "tanh")]
    tl.share(models[0], tmp_path / "m")
    child = in_child(lambda: [tl.share(models[i % 2], tmp_path / "m") for i in range(10_000)])
    try:
        for _ in range(15):
            found = tl.shared(tmp_path / "m")
            assert (float(found.get_weights()[0].max()), found.layers[0].activation.__name__) in {(1.0, "relu"), (2.0, "tanh")}
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_room_on_the_disk(tmp_path, suffix):
    """A file that cannot be written whole leaves the old one as it was, and no trace."""
    path = tl.save(wide(1), tmp_path / f"m{suffix}")
    before, model = sorted(p.name for p in tmp_path.iterdir()), wide(2)

    def refused():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        with pytest.raises(OSError, match="must fit on its disk"):
            tl.save(model, path)

    _, status = os.waitpid(in_child(refused), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert held(path) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def article_graph():
    """The article's section 2.1 in TensorFlow 1: input, third hidden layer, logits."""
    x = below = v1.placeholder(tf.float32, (None, 784), name="X")
    for name, units in zip(["hidden1", "hidden2", "hidden3", "hidden4", "hidden5", "logits"], [300, 50, 50, 50, 50, 10]):
        with v1.variable_scope(name):
            kernel = v1.get_variable("kernel", (below.shape[1], units), initializer=v1.glorot_uniform_initializer(seed=units))
            bias = v1.get_variable("bias", (units,), initializer=v1.random_normal_initializer(seed=1))
        below = tf.matmul(below, kernel) + bias
        below = below if name == "logits" else tf.nn.relu(below)
        if name == "hidden3":
            third = below
    return x, third, below


def test_the_articles_checkpoint(tmp_path):
    """Section 3.1 word for word: hidden1 to hidden3 out of a Saver's file, with Adam's slots in it too."""
    x = np.random.default_rng(0).random((7, 784), "float32")
    with tf.Graph().as_default(), v1.Session() as session:
        X, third, logits = article_graph()
        v1.train.AdamOptimizer().minimize(tf.reduce_mean(logits ** 2), global_step=v1.train.get_or_create_global_step())
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "my_model.ckpt"))
        want = session.run(third, {X: x})
    student = dnn(hidden=(300, 50, 50, 20))
    report = tl.restore(student, tmp_path / "my_model.ckpt", only=r"hidden[123]")
    assert len(report.of("restored")) == 6 and len(report.of("optimizer")) == 26
    got = keras.Model(student.inputs, student.get_layer("hidden3").output).predict(x, verbose=0)
    assert np.allclose(got, want, atol=1e-6)


def test_a_saver_restores_what_save_writes(tmp_path):
    model, x = dnn(), np.random.default_rng(0).random((7, 784), "float32")
    want = model(x)
    tl.save(model, tmp_path / "ours.ckpt")
    tl.save(model, tmp_path / "part.ckpt", only="hidden.*")
    with tf.Graph().as_default(), v1.Session() as session:
        X, _, logits = article_graph()
        v1.train.Saver().restore(session, str(tmp_path / "ours.ckpt"))
        assert np.allclose(session.run(logits, {X: x}), want, atol=1e-5)
        hidden = [v for v in v1.global_variables() if v.op.name.startswith("hidden")]
        v1.train.Saver(hidden).restore(session, str(tmp_path / "part.ckpt"))


def by_hand(listed):
    """A Keras 3 model from what the manifest says of the layers of an old one."""
    made = []
    for layer in listed:
        kind, name = layer["class"], layer["name"]
        shape = layer.get("batch_shape") or layer.get("batch_input_shape")
        if shape and not made:
            made.append(keras.Input(shape[1:]))
        if kind == "Dense":
            made.append(layers.Dense(layer["units"], layer["activation"], name=name))
        elif kind == "Conv2D":
            made.append(layers.Conv2D(layer["filters"], layer["kernel_size"], activation=layer["activation"], name=name))
        elif kind != "InputLayer":
            made.append(getattr(layers, kind)(name=name, **({"rate": 0.5} if kind == "Dropout" else {})))
    return keras.Sequential(made)


def rebuilt():
    known = {e["repo"]: e["report"]["layers"] for e in SET if e["report"].get("layers")}
    return [(e, known[e["repo"]]) for e in SET
            if e["status"] == "complete" and e["kind"] in ("h5", "keras", "weights_h5") and e["report"].get("mnist_best") and e["repo"] in known]


@pytest.mark.skipif(not SET or not DIGITS.is_file(), reason="TRANSFERLIT_CHECKPOINTS or TRANSFERLIT_DATA names no folder with what is needed")
@pytest.mark.parametrize("entry, listed", rebuilt(), ids=lambda e: e["id"] if isinstance(e, dict) else "")
def test_digit_models_rebuilt_by_hand(entry, listed):
    """Restored by names, the rebuilt model is as good on the test digits as the old one was."""
    model = by_hand(listed)
    tl.restore(model, ROOT / entry["dir"] / entry["prefix"])
    with np.load(DIGITS) as data:
        x, y = data["x_test"].astype("float32") / 255, data["y_test"]
    scores = model.predict(x.reshape(-1, *model.input_shape[1:]), batch_size=1000, verbose=0)
    assert abs((scores.argmax(1) == y).mean() - entry["report"]["mnist_test_accuracy"]["/255"]) < 2e-4


def test_a_file_of_keras_1(tmp_path):
    """Its names, `dense_1_W`, are not today's; its layers are."""
    rng = np.random.default_rng(0)
    arrays = {"dense_1": [("dense_1_W", rng.random((4, 3))), ("dense_1_b", rng.random(3))], "dense_2": [("dense_2_W", rng.random((3, 2))), ("dense_2_b", rng.random(2))]}
    with h5py.File(tmp_path / "old.h5", "w") as f:
        f.attrs["layer_names"] = [n.encode() for n in ("dense_1", "dropout_1", "dense_2")]
        for name in "dense_1", "dropout_1", "dense_2":
            group = f.create_group(name)
            group.attrs["weight_names"] = np.array([n.encode() for n, _ in arrays.get(name, [])], "S20")
            for key, value in arrays.get(name, []):
                group[key] = value.astype("float32")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense_1"), layers.Dropout(0.5), layers.Dense(2, name="dense_2")])
    report = tl.restore(model, tmp_path / "old.h5", unused="error")
    assert {row["why"] for row in report.of("restored")} == {"by its number in the layer"}
    assert np.allclose(model.get_layer("dense_2").kernel, arrays["dense_2"][0][1])
    later = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense_4"), layers.Dense(2, name="dense_5")])
    tl.restore(later, tmp_path / "old.h5", rename="renumber", unused="error")
    assert np.allclose(later.get_layer("dense_5").kernel, arrays["dense_2"][0][1])


@pytest.mark.parametrize("given, words", [(io.BytesIO(), "in memory"), (None, "in memory"), (["m.keras"], "in memory"), ("https://example.org/m.keras", "downloaded first")])
def test_what_is_no_path_is_said_in_words(given, words):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises((TypeError, FileNotFoundError), match=words):
        tl.restore(model, given)


def test_a_path_may_be_bytes(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    assert tl.restore(model, os.fsencode(tl.save(model, os.fsencode(tmp_path / "m.ckpt")))).ok


def body_of_two_layers():
    return keras.Sequential([keras.Input((5, 5, 2)), layers.DepthwiseConv2D(3, name="deep"), layers.Conv2D(2, 1, name="flat")], name="body")


def file_of_keras_2(path, group):
    """One layer of the model, a body whose variables Keras 2 calls otherwise; frozen ones come last."""
    rng = np.random.default_rng(0)
    arrays = {"flat/kernel:0": (1, 1, 2, 2), "flat/bias:0": (2,), "deep/depthwise_kernel:0": (3, 3, 2, 1), "deep/bias:0": (2,)}
    with h5py.File(path, "w") as f:
        f.attrs["layer_names"], f.attrs["keras_version"] = [group.encode()], b"2.4.0"
        held = f.create_group(group)
        held.attrs["weight_names"] = np.array([n.encode() for n in arrays], "S40")
        for name, shape in arrays.items():
            held[name] = rng.random(shape).astype("float32")
        return held["deep/depthwise_kernel:0"][()]


@pytest.mark.parametrize("rename", ["scope", [("^old/", "")], [("^old/deep/", "deep/"), ("^old/flat/", "flat/")]])
def test_a_layer_of_keras_2_is_matched_after_a_rename(tmp_path, rename):
    """In a nested body `depthwise_kernel` has no number of its own; its layer tells."""
    kernel, model = file_of_keras_2(tmp_path/"old.h5", "old"), body_of_two_layers()
    report = tl.restore(model, tmp_path/"old.h5", rename=rename, unused="error")
    assert len(report.of("restored")) == 4 and np.array_equal(model.get_layer("deep").kernel, kernel)


def test_a_layer_with_more_in_the_file_is_not_matched_by_a_longer_name(tmp_path):
    file_of_keras_2(tmp_path/"old.h5", "old")
    with h5py.File(tmp_path/"old.h5", "a") as f:
        f["old"].attrs["weight_names"] = np.append(f["old"].attrs["weight_names"], np.bytes_("deep/other:0"))
        f["old/deep/other:0"] = np.ones(2, "float32")
    plan = tl.plan(body_of_two_layers(), tmp_path/"old.h5", rename="scope")
    assert [row["path"] for row in plan.of("missing")] == ["deep/kernel"]


def test_a_part_is_never_matched_by_number(tmp_path):
    """Two of a layer's four variables are numbered 0 and 1 in their file, as gamma and beta would be."""
    make = lambda: keras.Sequential([keras.Input((3,)), layers.BatchNormalization(name="bn")])
    model = make()
    model.set_weights([np.full(3, n) for n in (1.0, 2.0, 3.0, 4.0)])
    for suffix in ".weights.h5", ".keras":
        tl.save(model, tmp_path / f"part{suffix}", only=".*/(?:beta|moving_mean)")
        other = make()
        tl.restore(other, tmp_path / f"part{suffix}", missing="fresh")
        assert [float(w[0]) for w in other.get_weights()] == [1.0, 2.0, 3.0, 1.0]
    with h5py.File(tmp_path / "part.weights.h5", "r+") as f:  # as a file that knows numbers only
        f.visititems(lambda _, node: node.attrs.pop("path", None) and None)
    assert len(tl.plan(make(), tmp_path / "part.weights.h5").of("missing")) == 4


def nested(name="base"):
    base = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="conv"), layers.BatchNormalization(name="bn")], name=name)
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2, name="head")(base(x)))


def test_names_without_nested_models(tmp_path):
    """Keras 2 wrote `conv/kernel` for a layer of a nested model; with two such layers it is anybody's guess."""
    arrays = {"conv/kernel": np.eye(4, dtype="float32"), "conv/bias": np.ones(4, "float32")}
    np.savez(tmp_path / "flat.npz", **arrays)
    model = nested()
    tl.restore(model, tmp_path / "flat.npz", only="base/conv")
    assert np.array_equal(tl.by_path(model)["base/conv/kernel"], np.eye(4))
    x, parts = keras.Input((4,)), [nested(name).layers[1] for name in ("one", "two")]
    twins = keras.Model(x, parts[1](parts[0](x)))
    assert len(tl.plan(twins, tmp_path / "flat.npz", only="(?:one|two)/conv").of("missing")) == 4


def test_layers_inside_layers(tmp_path):
    """Wrappers, cells and attention, from a file that has names of layers only and from one of attributes."""
    def make():
        x = keras.Input((5, 4))
        y = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(x)
        y = layers.TimeDistributed(layers.Dense(4, name="inner"), name="each")(y)
        y = layers.MultiHeadAttention(2, 3, name="heads")(y, y)
        y = layers.SpectralNormalization(layers.Dense(3, name="normed"), name="spectral")(y)
        return keras.Model(x, layers.GRU(2, name="gru")(y))
    model, other = make(), make()
    for i, v in enumerate(model.weights):
        v.assign(np.full(v.shape, i))
    for suffix in (*SUFFIXES, ".h5"):
        path = tmp_path / f"m{suffix}"
        model.save(path) if suffix == ".h5" else tl.save(model, path)
        tl.restore(filled(other, -1), path, missing="fresh")
        different = [p for p, v in tl.by_path(other).items() if "lstm" not in p and "gru_cell" not in p and float(np.max(v)) < 0]
        assert not different, suffix
    with zipfile.ZipFile(tmp_path / "m.keras") as old, zipfile.ZipFile(tmp_path / "early.keras", "w") as new:
        for name in old.namelist():
            if not name.endswith(".h5"):
                new.writestr(name, old.read(name))
        (tmp_path / "w.h5").write_bytes(old.read("model.weights.h5"))
        with h5py.File(tmp_path / "w.h5", "r+") as f:
            f.visititems(lambda _, node: node.attrs.pop("name", None) and None)
        new.write(tmp_path / "w.h5", "model.weights.h5")
    report = tl.restore(filled(model, 5), tmp_path / "early.keras")
    assert len(report.of("restored")) == len(model.weights)


def test_what_training_leaves_in_a_checkpoint(tmp_path):
    """Slots, averages, steps and pieces of a TensorFlow 1 training; shards named by `checkpoint` with question marks."""
    config = v1.ConfigProto(device_count={"CPU": 2})
    with tf.Graph().as_default(), v1.Session(config=config) as session:
        with v1.variable_scope("net"):
            w = v1.get_variable("conv/weights", (3, 2))
            with tf.device("/job:localhost/replica:0/task:0/device:CPU:1"):
                v1.get_variable("conv/biases", (2,))
            v1.get_variable("table", (10, 2), partitioner=v1.fixed_size_partitioner(3))
        step = v1.train.get_or_create_global_step()
        v1.train.RMSPropOptimizer(0.1, momentum=0.9).minimize(tf.reduce_sum(w), global_step=step)
        v1.train.ExponentialMovingAverage(0.9, step).apply([w])
        session.run(v1.global_variables_initializer())
        for name, options in ("v2", {}), ("v1", {"write_version": 1, "sharded": True}):
            (tmp_path / name).mkdir()
            v1.train.Saver(**options).save(session, str(tmp_path / name / "model.ckpt"), global_step=7)
    for name in "v1", "v2":
        with tl.open_weights(tmp_path / name) as weights:
            assert sorted(weights.of_kind("model")) == ["net/conv/biases", "net/conv/weights", "net/table"], name
            assert {n: v.kind for n, v in weights.items() if v.kind != "model"} == {
                "net/conv/weights/RMSProp": "optimizer", "net/conv/weights/RMSProp_1": "optimizer",
                "net/conv/weights/ExponentialMovingAverage": "average", "global_step": "step"}
            assert np.asarray(weights["net/table"]).shape == (10, 2)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="conv")])
    refused = tl.plan(model, tmp_path / "v2")
    assert not refused.ok and any("rename=" in p for p in refused.problems)
    tl.restore(model, tmp_path / "v1", rename=["scope", "slim"])
    next((tmp_path / "v1").glob("*-00001-of-00002")).unlink()
    with pytest.raises(FileNotFoundError, match="all its shards"):
        tl.open_weights(tmp_path / "v1")


def test_objects_of_a_subclassed_model(tmp_path):
    """Keras 3 makes all its kernels under one name; the way through the objects tells them apart."""
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.first, self.second = layers.Dense(3, name="alpha"), layers.Dense(3, name="beta")

        def call(self, x):
            return self.second(self.first(x))

    model = Net()
    model(np.zeros((1, 3)))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    tf.train.Checkpoint(net=model, tuner=model.optimizer, step=tf.Variable(3)).write(str(tmp_path / "c"))
    with tl.open_weights(tmp_path / "c") as weights:
        assert len(weights.of_kind("model")) == 4 and len(weights.of_kind("step")) == 1
    other = Net()
    other(np.zeros((1, 3)))
    tl.restore(other, tmp_path / "c", rename=[("^net/", ""), ("^first", "alpha"), ("^second", "beta")], unused="error")
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights()))


@keras.saving.register_keras_serializable("test")
class Doubled(layers.Layer):
    """Uses a constant that it made of its variable, as `Normalization` does."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones", name="scale")
        self.finalize_state()

    def finalize_state(self):
        self.doubled = 2 * self.scale.numpy()

    def call(self, x):
        return x * self.doubled


@keras.saving.register_keras_serializable("test")
class Tripled(layers.Layer):
    """The same, by the way in which Keras lets a layer read its part of a file."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones", name="scale")
        self.tripled = 3 * self.scale.numpy()

    def load_own_variables(self, store):
        super().load_own_variables(store)
        self.tripled = 3 * self.scale.numpy()

    def call(self, x):
        return x * self.tripled


def deriving(kind):
    """A model with a layer that derives state from variables, there in one way or another."""
    own = {"own": Doubled, "reads": Tripled}.get(kind, layers.Normalization)(name="scale")
    inputs = keras.Input((5, 3) if kind == "wrapped" else (3,))
    if kind in ("nested", "twice"):
        for i in range(1 + (kind == "twice")):
            own = keras.Sequential([keras.Input((3,)), own], name=f"around{i}")
    if kind == "wrapped":
        own = layers.TimeDistributed(own, name="around")
    return keras.Model(inputs, layers.Dense(2, name="head")(own(inputs)))


KINDS = "plain", "nested", "twice", "wrapped", "own", "reads"


def drawn(kind, seed):
    """Such a model with values of its own in use, and a few rows for it."""
    model, rng = deriving(kind), np.random.default_rng(seed)
    model.set_weights([rng.uniform(1, 9, v.shape).astype(v.dtype) for v in model.weights])
    for layer in model._flatten_layers():
        if isinstance(layer, (layers.Normalization, Doubled)):
            layer.finalize_state()
        if isinstance(layer, Tripled):
            layer.tripled = 3 * layer.scale.numpy()
    return model, rng.normal(size=(4, *model.input.shape[1:])).astype("float32")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_of_variables_is_restored(kind, suffix, tmp_path):
    """The layers use what was restored, and so does what was compiled before."""
    saved, x = drawn(kind, 0)
    model, before = deriving(kind), np.asarray(saved(x))
    assert np.abs(model.predict(x, verbose=0) - before).max() > 0.1
    tl.restore(model, tl.save(saved, tmp_path / f"m{suffix}"))
    np.testing.assert_allclose(model(x), before, rtol=1e-5)
    np.testing.assert_allclose(model.predict(x, verbose=0), before, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_restore_that_failed_is_in_use(kind, tmp_path, monkeypatch):
    path = tl.save(drawn(kind, 0)[0], tmp_path / "m.safetensors")
    model, x = drawn(kind, 1)
    before, assign, last = model(x).numpy(), keras.Variable.assign, model.weights[-1]

    def broken(self, value):
        if self is last and not np.array_equal(value, last.numpy()):
            raise MemoryError
        return assign(self, value)

    monkeypatch.setattr(keras.Variable, "assign", broken)
    with pytest.raises(MemoryError):
        tl.restore(model, path)
    np.testing.assert_array_equal(model(x), before)


def test_what_comes_of_no_variable_stays(tmp_path):
    """Bins lie in the configuration; to compute them again from nothing would lose them."""
    if keras_version() < (3, 15):
        pytest.skip(f"Keras {keras.__version__} does not count the bins of a configuration")
    bins, inputs, x = layers.Discretization(num_bins=4, output_mode="one_hot"), keras.Input((1,)), np.random.rand(50, 1)
    bins.adapt(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(bins(inputs)))
    shared = tl.shared(tl.share(model, tmp_path / "shared"))
    np.testing.assert_allclose(shared(x), model(x), rtol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "nested", "twice", "wrapped"])
def test_a_shared_folder_gives_the_same_model(kind, tmp_path):
    model, x = drawn(kind, 2)
    np.testing.assert_allclose(tl.shared(tl.share(model, tmp_path / "shared"))(x), model(x), rtol=1e-5)


def test_training_goes_on_with_what_was_restored(tmp_path):
    """A loop that was compiled before the restore uses the new statistics too."""
    saved, x = drawn("plain", 0)
    y, model = np.ones((4, 2), "float32"), deriving("plain")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    tl.fit(model, x, y, cache=False, verbose=0)
    tl.restore(model, tl.save(saved, tmp_path / "m.safetensors"))
    loss = tl.fit(model, x, y, cache=False, verbose=0).history["loss"][0]
    np.testing.assert_allclose(loss, np.mean((saved.predict(x, verbose=0) - y) ** 2), rtol=1e-4)
