"""Layers of PyTorch, Flax and cuDNN compute in Keras what they computed there; transforms by name do what they say."""
import os
import re
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import transferlit as tl

L = keras.layers
EPSILON = dict(epsilon=1e-5, name="l")
RECURRENT = {"lstm": L.LSTM, "gru": L.GRU, "rnn": L.SimpleRNN}


def read(library):
    "Name of a layer to name to array."
    found = defaultdict(dict)
    with np.load(Path(__file__).parent / "fixtures" / f"{library}.npz") as arrays:
        for name in arrays:
            kind, _, key = name.partition("|")
            found[kind][key] = arrays[name]
    return found


FILES = {library: read(library) for library in ("torch", "torch_nets", "flax")}
LAYERS = {
    "dense": lambda: L.Dense(5, name="l"), "conv1d": lambda: L.Conv1D(4, 3, name="l"), "conv2d": lambda: L.Conv2D(3, 3, name="l"),
    "conv2d_groups": lambda: L.Conv2D(6, 3, groups=2, name="l"), "conv3d": lambda: L.Conv3D(2, 2, name="l"),
    "deconv1d": lambda: L.Conv1DTranspose(3, 3, strides=2, name="l"), "deconv2d": lambda: L.Conv2DTranspose(3, 3, strides=2, name="l"),
    "depthwise1d": lambda: L.DepthwiseConv1D(3, depth_multiplier=2, name="l"),
    "depthwise2d": lambda: L.DepthwiseConv2D(3, depth_multiplier=2, name="l"), "embedding": lambda: L.Embedding(6, 6, name="l"),
    "batchnorm": lambda: L.BatchNormalization(**EPSILON), "layernorm": lambda: L.LayerNormalization(**EPSILON),
    "groupnorm": lambda: L.GroupNormalization(2, **EPSILON), "prelu": lambda: L.PReLU(name="l")}


def build(kind, x):
    inputs = keras.Input(x.shape[1:], dtype=str(x.dtype))
    if kind.endswith("attention"):
        return keras.Model(inputs, L.MultiHeadAttention(2, 4, use_bias=not kind.startswith("plain"), name="l")(inputs, inputs))
    return keras.Sequential([inputs, *build_layers(kind, x.shape[-1])])


def build_layers(kind, channels):
    if kind == "conv1d":
        return [L.Conv1D(channels, 3, name="l")]
    if kind in LAYERS:
        return [LAYERS[kind]()]
    how, _, cell = kind.rpartition("_")
    make = lambda name: RECURRENT[cell](4, return_sequences=True, use_bias=how != "plain", name=name)
    if how == "both":
        return [L.Bidirectional(make(None), name="l")]
    return [make("l0"), make("l1")] if how == "two" else [make("l")]


CASES = [(library, kind) for library in ("torch", "flax") for kind in FILES[library] if not kind.startswith("resize")]


@pytest.mark.parametrize("library, kind", CASES)
def test_a_layer_computes_what_it_computed_there(tmp_path, library, kind):
    """Within 1e-5, by the preset; and the preset is what the plan proposes, square matrices included."""
    arrays = dict(FILES[library][kind])
    x, y = arrays.pop("x"), arrays.pop("y")
    if library == "torch" and ("conv" in kind or "depth" in kind or kind == "groupnorm"):
        x, y = np.moveaxis(x, 1, -1), np.moveaxis(y, 1, -1)
    model = build(kind, x)
    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, tmp_path / "m.safetensors")
    refused = tl.plan(model, tmp_path / "m.safetensors")
    assert not refused.ok and f"transform={library!r}" in str(refused.problems)
    tl.restore(model, tmp_path / "m.safetensors", transform=library)
    np.testing.assert_allclose(model(x), y, atol=1e-5)


class Tripled(L.Dense):
    pass


class Flat(keras.Model):
    """The same layers as a class has them, which says nothing of the order of its calls."""

    def __init__(self):
        super().__init__()
        self.parts = [L.Conv2D(3, 3, name="conv"), L.Flatten(), L.Dense(12, name="fc")]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Reshaped(keras.Model):
    """They are laid out flat by no layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = L.Conv2D(3, 3, name="conv"), L.Dense(12, name="fc")

    def call(self, x):
        return self.fc(keras.ops.reshape(self.conv(x), (-1, 12)))


def nested():
    base = keras.Sequential([keras.Input((4, 4, 2)), L.Conv2D(3, 3, name="conv"), L.Flatten(), L.Dropout(0.1)], name="base")
    return [base, keras.Sequential([keras.Input((12,)), Tripled(12, name="fc")], name="head")]


def attended(name):
    inputs = keras.Input((5, 8))
    return keras.Model(inputs, L.MultiHeadAttention(2, 4, name=name)(inputs, inputs))


norm = lambda name: L.BatchNormalization(epsilon=1e-5, name=name)
gru = lambda name: L.GRU(4, return_sequences=True, name=name)
NETS = {  # the net of PyTorch, the layers here, and more arguments
    "flat": ("flat", lambda: [L.Conv2D(3, 3, name="conv"), L.MaxPool2D(2, 1), L.Flatten(), norm("bn"), L.Dense(4, name="fc")], {}),
    "square": ("square", lambda: [L.Conv2D(3, 3, name="conv"), L.Flatten(), L.Dense(12, name="fc")], {}),
    "turned by hand": ("square", lambda: [L.Conv2D(3, 3, name="conv"), L.Permute((3, 1, 2)), L.Flatten(), L.Dense(12, name="fc")], {}),
    "nested": ("square", nested, dict(rename=[("^conv", "base/conv"), ("^fc", "head/fc")])),
    "class": ("square", Flat, {}),
    "class that reshapes": ("square", Reshaped, {}),
    "line": ("line", lambda: [L.Conv1D(4, 3, name="conv"), L.Flatten(), L.Dense(4, name="fc")], {}),
    "words": ("words", lambda: [L.Embedding(7, 4, name="emb"), L.Flatten(), L.Dense(4, name="fc")], {}),
    "colours": ("colours", lambda: [L.Flatten(), L.Dense(4, name="fc")], {}),
    "drawn": ("drawn", lambda: [L.Dense(36, name="fc"), norm("bn"), L.ReLU(), L.Reshape((3, 3, 4)), L.Conv2DTranspose(2, 3, strides=2, name="up")], {}),
    "apart": ("apart", lambda: [L.SeparableConv2D(5, 3, depth_multiplier=2, name="block")], {}),
    "normed": ("normed", lambda: [L.Dense(4, name=name) for name in "abcd"], {}),
    "cells": ("stacked", lambda: [L.RNN([L.GRUCell(4), L.GRUCell(4)], return_sequences=True, name="rnn")], {}),
    "layers": ("stacked", lambda: [gru("rnn"), gru("top")], dict(rename=(r"^rnn/(.*)_l1", r"top/\1_l0"))),
    "numbered layers": ("stacked", lambda: [gru("rnn"), gru("rnn_1")], {}),
    "steps": ("steps", lambda: [L.Conv2D(4, 3, name="layer1_0"), norm("layer1_1"), L.Conv2D(4, 3, name="layer2.0"), norm("layer2.1")], dict(rename="scope")),
    "fused": ("fused", lambda: attended("attn"), {}),
    "bert": ("bert", lambda: attended("attention"), {}),
}


@pytest.mark.parametrize("case", NETS)
def test_a_net_computes_what_it_computed_there(tmp_path, case):
    """Or says what it cannot know: never another output."""
    net, make, more = NETS[case]
    arrays = dict(FILES["torch_nets"][net])
    x, y = (np.moveaxis(a, 1, -1) if a.ndim == 4 or net == "line" and a.ndim == 3 else a for a in (arrays.pop("x"), arrays.pop("y")))
    made = make()
    model = made if isinstance(made, keras.Model) else keras.Sequential([keras.Input(x.shape[1:]), *made])
    model(x)
    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, tmp_path / "m.safetensors")
    tl.restore(model, tmp_path / "m.safetensors", transform="torch", **more)
    np.testing.assert_allclose(model(x), y, atol=1e-5)


def test_two_layers_of_a_class_read_one_picture(tmp_path):
    """As the mean and the spread of a variational encoder do."""

    class Encoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.flat = L.Conv2D(3, 3, name="conv"), L.Flatten()
            self.mean, self.spread = L.Dense(2, name="mean"), L.Dense(2, name="spread")

        def call(self, x):
            x = self.flat(self.conv(x))
            return self.mean(x), self.spread(x)

    file, model = FILES["torch_nets"]["square"], Encoder()
    model(np.zeros((1, 4, 4, 2), "float32"))
    arrays = {f"{name}.{end}": file[f"fc.{end}"][:2] for name in ("mean", "spread") for end in ("weight", "bias")}
    save_file(arrays | {name: a for name, a in file.items() if name.startswith("conv")}, tmp_path / "m.safetensors")
    tl.restore(model, tmp_path / "m.safetensors", transform="torch")
    for output in model(np.moveaxis(file["x"], 1, -1)):
        np.testing.assert_allclose(output, file["y"][:, :2], atol=1e-5)


class Scale(L.Layer):
    """One number, which has no axis of features."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(), name="scale")

    def call(self, x):
        return x * self.scale


@pytest.mark.parametrize("flat", [0, 1], ids=["before it is flat", "when it is flat"])
def test_a_number_for_all_features_lies_between(tmp_path, flat):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [L.Conv2D(3, 3, name="conv"), L.Flatten(), L.Dense(12, name="fc")]
            self.parts.insert(1 + flat, Scale(name="scale"))

        def call(self, x):
            for part in self.parts:
                x = part(x)
            return x

    file, model = dict(FILES["torch_nets"]["square"]), Net()
    x, y = np.moveaxis(file.pop("x"), 1, -1), file.pop("y")
    model(x)
    save_file({name: np.ascontiguousarray(a) for name, a in file.items()} | {"scale.scale": np.ones((), "float32")}, tmp_path / "m.safetensors")
    tl.restore(model, tmp_path / "m.safetensors", transform="torch")
    np.testing.assert_allclose(model(x), y, atol=1e-5)


def test_what_stands_before_every_name_is_proposed_to_go(tmp_path):
    arrays, model = FILES["torch_nets"]["steps"], keras.Sequential([keras.Input((6, 6, 3)), L.Conv2D(4, 3, name="layer1_0"), L.BatchNormalization(name="layer1_1")])
    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items() if "." in name}, tmp_path / "m.safetensors")
    assert "transform='torch', rename='scope' would find everything that is missing." in tl.plan(model, tmp_path / "m.safetensors").problems
    plan = tl.plan(model, tmp_path / "m.safetensors", transform="torch", rename="scope")
    assert plan.ok and [row["why"] for row in plan.of("setting")] == ["0.001 here; torch has 1e-05 unless told"]
    assert tl.plan(model, tmp_path / "m.safetensors", transform="torch", rename=(r"^module\.", "")).ok
    with pytest.raises(ValueError, match="at least one name"):
        tl.plan(model, tmp_path / "m.safetensors", transform="torch", rename=(r"^network\.", ""))


def test_a_library_with_exceptions(tmp_path):
    """`c_proj` of GPT-2 lies as in Keras, in a file of PyTorch; square, so that nothing else tells."""
    arrays = {"fc.weight": np.arange(9.0).reshape(3, 3), "c_proj.weight": np.arange(9.0).reshape(3, 3)}
    save_file(arrays, tmp_path / "m.safetensors")
    model = keras.Sequential([keras.Input((3,)), *(L.Dense(3, use_bias=False, name=name) for name in ("fc", "c_proj"))])
    tl.restore(model, tmp_path / "m.safetensors", transform=["torch", {"c_proj/kernel": "same"}])
    np.testing.assert_array_equal(model.get_layer("fc").kernel, arrays["fc.weight"].T)
    np.testing.assert_array_equal(model.get_layer("c_proj").kernel, arrays["c_proj.weight"])


def dense(size, *names, bias=True):
    return keras.Sequential([keras.Input((size,)), *(L.Dense(size, use_bias=bias, name=name) for name in names)])


@pytest.mark.parametrize("lies", ["in_out", "out_in"])
def test_biases_tell_how_a_matrix_lies(tmp_path, lies):
    """A square one lies as those of its name do: `Conv1D` of GPT-2, or `Linear` of the same names."""
    a = np.arange(24.0, dtype="float32")
    arrays = {"0.c_proj": a[:9].reshape(3, 3), "0.c_fc": a.reshape(3, 8)[:, :6], "1.c_proj": a[:18].reshape(6, 3), "head": a[:9].reshape(3, 3)}
    file = {f"{n}.weight": np.ascontiguousarray(w if lies == "in_out" and n != "head" else w.T) for n, w in arrays.items()}
    save_file(file | {f"{n}.bias": np.zeros(w.shape[1], "float32") for n, w in arrays.items()} | {"fc.weight": a[:6].reshape(2, 3), "fc.bias": a[:2]}, tmp_path / "m.safetensors")
    sizes = {"0_c_proj": 3, "0_c_fc": 6, "1_c_proj": 3, "head": 3}
    model = keras.Sequential([keras.Input((3,)), *(L.Dense(size, name=name) for name, size in sizes.items())])
    tl.restore(model, tmp_path / "m.safetensors", transform="torch")
    for name, w in arrays.items():
        np.testing.assert_array_equal(model.get_layer(name.replace(".", "_")).kernel, w)


@pytest.mark.parametrize("kernel, proposed", [("weight", "transform='torch', rename=('^state/model/', '')"), ("kernel", "rename=('^state/model/', '')")])
def test_several_steps_before_every_name_are_proposed_to_go(tmp_path, kernel, proposed):
    between = "." if kernel == "weight" else "/"
    np.savez(tmp_path / "m.npz", **{between.join(["state", "model", layer, end]): np.ones((2, 2)[: 2 - (end == "bias")]) for layer in "ab" for end in (kernel, "bias")})
    assert f"{proposed} would find everything that is missing." in tl.plan(dense(2, "a", "b"), tmp_path / "m.npz").problems


def test_levels_go_into_layers_of_another_name(tmp_path):
    """One word for all of them is proposed, and their numbers do the rest."""
    arrays = {name: np.ascontiguousarray(a) for name, a in FILES["torch_nets"]["stacked"].items()}
    x, y = arrays.pop("x"), arrays.pop("y")
    save_file(arrays, tmp_path / "m.safetensors")
    model = keras.Sequential([keras.Input(x.shape[1:]), gru("turn_1"), gru("turn_2")])
    assert "transform='torch', rename={'rnn': 'turn'} would find everything" in tl.plan(model, tmp_path / "m.safetensors").problems[-1]
    tl.restore(model, tmp_path / "m.safetensors", transform="torch", rename={"rnn": "turn"})
    np.testing.assert_allclose(model(x), y, atol=1e-5)


def test_two_names_that_become_one_are_ambiguous(tmp_path):
    """An encoder and a decoder without their scopes: neither is meant more than the other."""
    save_file({f"{side}.fc.{end}": np.full((2, 2)[: 2 - (end == "bias")], i, "float32") for i, side in enumerate(("encoder", "decoder")) for end in ("weight", "bias")}, tmp_path / "m.safetensors")
    plan = tl.plan(dense(2, "fc"), tmp_path / "m.safetensors", transform="torch", rename="scope")
    assert [row["path"] for row in plan.of("ambiguous")] == ["fc/kernel", "fc/bias"]


def test_sizes_change_after_the_library(tmp_path):
    """A head of three classes goes into one of four; what the file has is square."""
    save_file({"head.weight": np.arange(9.0).reshape(3, 3), "head.bias": np.arange(3.0)}, tmp_path / "m.safetensors")
    model = keras.Sequential([keras.Input((3,)), L.Dense(4, name="head")])
    tl.restore(model, tmp_path / "m.safetensors", transform=["torch", {"head/.*": "rows"}])
    np.testing.assert_array_equal(model.get_layer("head").kernel[:, :3], np.arange(9.0).reshape(3, 3).T)


@pytest.mark.parametrize("key", ["fc", "params/fc"])
def test_a_tree_of_flax_below_a_name(tmp_path, key):
    arrays = {"kernel": np.arange(4.0).reshape(2, 2), "bias": np.ones(2)}
    np.savez(tmp_path / "m.npz", **{f"target/params/d/{end}": a for end, a in arrays.items()})
    assert "transform='flax', rename='scope' would find everything" in tl.plan(dense(2, "d"), tmp_path / "m.npz").problems[-1]
    np.savez(tmp_path / "n.npz", **{f"params/fc/{end}": a for end, a in arrays.items()})
    model = dense(2, "d")
    tl.restore(model, tmp_path / "n.npz", transform="flax", rename={key: "d"})
    np.testing.assert_array_equal(model.get_layer("d").kernel, arrays["kernel"])


@pytest.mark.parametrize("library, names, found", [
    ("torch", "net.2 net.10", {"net/2": "a_1", "net/10": "a_2"}), ("flax", "Dense_0 Dense_1", {"Dense_0": "a_1", "Dense_1": "a_2"}),
    ("torch", "mean spread", {}), ("torch", "net.2 net.10 net.11", {}), ("torch", "net.2 net.10 back", {})])
def test_layers_of_other_names_are_paired_by_shapes_and_numbers(tmp_path, library, names, found):
    """Two that fit each other are paired only where they differ by their number; following the proposal works."""
    def arrays(name, i, *shape):
        "A layer whose numbers are all `i`."
        if library == "flax":
            return {f"params/{name}/kernel": np.full(shape[::-1], i, "float32"), f"params/{name}/bias": np.full(shape[0], i, "float32")}
        return {f"{name}.weight": np.full(shape, i, "float32"), f"{name}.bias": np.full(shape[0], i, "float32")}

    file = arrays("last", 9, 4, 3)
    for i, name in enumerate(names.removesuffix(" back").split()):
        file |= arrays(name, i, 3, 3)
    save_file(file, tmp_path / "m.safetensors")
    order = ("a_2", "a_1") if "back" in names else ("a_1", "a_2")  # numbers against the order of calls say nothing
    model = keras.Sequential([keras.Input((3,)), *(L.Dense(3, name=name) for name in order), L.Dense(4, name="head")])
    rename = found | {"last": "head"}
    assert any(f"transform={library!r}, rename=" in p and all(f"{k!r}: {v!r}" in p for k, v in rename.items()) and ("a_1" in p) == bool(found) for p in tl.plan(model, tmp_path / "m.safetensors").problems)
    plan = tl.plan(model, tmp_path / "m.safetensors", transform=library, rename=rename)
    assert {row["path"] for row in plan.of("missing")} == (set() if found else {"a_1/kernel", "a_1/bias", "a_2/kernel", "a_2/bias"})


@pytest.mark.parametrize("file, left", [
    ({"fc.weight": (2, 2), "fc.bias": (2,)}, "fc.bias"), ({"fc/kernel": (2, 2), "fc/bias": (2,)}, "fc/bias"),
    ({f"rnn.{part}_l{n}": shape for n in (0, 1) for part, shape in {"weight_ih": (2, 2), "weight_hh": (2, 2)}.items()}, "rnn.weight_hh_l1")])
def test_a_layer_is_not_restored_in_part(tmp_path, file, left):
    """A bias, or further levels, that the model's layer has no place for: it would compute something else."""
    save_file({name: np.ones(shape, "float32") for name, shape in file.items()}, tmp_path / "m.safetensors")
    rnn = keras.Sequential([keras.Input((3, 2)), L.SimpleRNN(2, use_bias=False, name="rnn")])
    model, transform = rnn if "rnn" in left else dense(2, "fc", bias=False), None if "/" in left else "torch"
    plan = tl.plan(model, tmp_path / "m.safetensors", transform=transform)
    assert not plan.ok and plan.problems[0].startswith(f"{left}: the model has no place")
    assert tl.plan(model, tmp_path / "m.safetensors", transform=transform, skip=r".*(bias|_l1)").ok
    if left == "fc/bias":  # a kernel alone, where that is asked for
        assert tl.plan(dense(2, "d"), tmp_path / "m.safetensors", only="d/kernel", rename={"fc/kernel": "d/kernel"}).ok


@pytest.mark.parametrize("size", ["larger", "smaller"])
def test_position_embeddings_are_interpolated_as_pytorch_does(tmp_path, size):
    old, new = (FILES["torch"][f"resize_{size}"][key] for key in "xy")
    model = keras.Sequential([keras.Input((1,)), L.Embedding(new.shape[1], 6, name="positions")])
    np.savez(tmp_path / "m.npz", **{"positions/embeddings": old[0]})
    tl.restore(model, tmp_path / "m.npz", transform={"positions": "resize"})
    np.testing.assert_allclose(model.get_weights()[0], new[0], atol=1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def run_cudnn(x, kernel, recurrent, bias, units, kind):
    "cuDNN reads each gate's numbers as a matrix of (units, inputs), and has two biases."
    gates = 4 if kind == "lstm" else 3
    matrices = lambda k: [part.ravel().reshape(units, -1) for part in np.hsplit(k, gates)]
    w, r, b = matrices(kernel), matrices(recurrent), np.split(bias, 2 * gates)
    h = c = np.zeros((len(x), units))
    for step in x.swapaxes(0, 1):
        a, d = ([v @ m.T + b[i + at] for i, m in enumerate(ms)] for v, ms, at in ((step, w, 0), (h, r, gates)))
        if kind == "lstm":
            i, f, g, o = (p + q for p, q in zip(a, d))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            z, reset = sigmoid(a[0] + d[0]), sigmoid(a[1] + d[1])
            h = z * h + (1 - z) * np.tanh(a[2] + reset * d[2])
    return h


@pytest.mark.parametrize("inputs", [3, 4])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_kernels_of_cudnn(tmp_path, kind, inputs):
    """Square ones, too, which would fit as they are."""
    rng, gates = np.random.default_rng(0), 4 if kind == "lstm" else 3
    kernel, recurrent, bias = (rng.normal(size=s).astype("float32") for s in ((inputs, 4 * gates), (4, 4 * gates), (8 * gates,)))
    np.savez(tmp_path / "m.npz", **{"l/kernel": kernel, "l/recurrent_kernel": recurrent, "l/bias": bias})
    model, x = keras.Sequential([keras.Input((5, inputs)), RECURRENT[kind](4, name="l")]), rng.normal(size=(2, 5, inputs)).astype("float32")
    tl.restore(model, tmp_path / "m.npz", transform="cudnn")
    np.testing.assert_allclose(model(x), run_cudnn(x, kernel, recurrent, bias, 4, kind), atol=1e-5)


def test_a_gru_that_resets_before_takes_no_weights_of_one_that_resets_after(tmp_path):
    """Other biases: no transform makes one compute what the other does."""
    make = lambda after: keras.Sequential([keras.Input((5, 4)), L.GRU(4, reset_after=after, name="l")])
    path = tl.save(make(True), tmp_path / "m.safetensors")
    assert [row["path"] for row in tl.plan(make(False), path).of("shape differs")] == ["l/gru_cell/bias"]
    save_file({n: np.ascontiguousarray(a) for n, a in FILES["torch"]["gru"].items() if n not in "xy"}, tmp_path / "t.safetensors")
    assert not tl.plan(make(False), tmp_path / "t.safetensors", transform="torch").ok


def test_a_layer_becomes_a_cell(tmp_path):
    saved = keras.Sequential([keras.Input((5, 3)), L.LSTM(4, name="old")])
    model = keras.Sequential([keras.Input((5, 3)), L.RNN(L.LSTMCell(4, name="cell"), name="new")])
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    tl.restore(model, tl.save(saved, tmp_path / "m.safetensors"), rename=[("old/lstm_cell", "new/cell")])
    np.testing.assert_allclose(model(x), saved(x), atol=1e-6)


def test_a_kernel_of_colours_sees_grey(tmp_path):
    make = lambda channels: keras.Sequential([keras.Input((8, 8, channels)), L.Conv2D(4, 3, name="c")])
    saved, model = make(3), make(1)
    grey = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    tl.restore(model, tl.save(saved, tmp_path / "m.safetensors"), transform={"c/kernel": "sum_channels"})
    np.testing.assert_allclose(model(grey), saved(np.repeat(grey, 3, -1)), atol=1e-5)


NET = {"conv1": 4, "bn1": 4, **{f"layer{l}.{b}.{part}{n}": 4 * l for l in (1, 2) for b in (0, 1) for n in (1, 2) for part in ("conv", "bn")},
       "layer2.0.downsample.0": 8, "layer2.0.downsample.1": 8, "fc": 3}


def residual_net(name):
    """The layers of `NET` in Keras, called in their order, named by `name` or by Keras."""
    x, before = keras.Input((8, 8, 3)), None

    def pair(h, size, conv, norm, kernel=3, strides=1):
        return L.BatchNormalization(epsilon=1e-5, name=name(norm))(L.Conv2D(size, kernel, strides, "same", use_bias=False, name=name(conv))(h))

    h = pair(x, 4, "conv1", "bn1")
    for at, size in {"layer1.0": 4, "layer1.1": 4, "layer2.0": 8, "layer2.1": 8}.items():
        side = pair(h, size, f"{at}.downsample.0", f"{at}.downsample.1", 1) if h.shape[-1] != size else h
        h = L.Add()([side, pair(pair(h, size, f"{at}.conv1", f"{at}.bn1"), size, f"{at}.conv2", f"{at}.bn2")])
    return keras.Model(x, L.Dense(3, name=name("fc"))(L.GlobalAveragePooling2D()(h)))


def net_file(path):
    "Arrays as PyTorch names and lays them."
    twin, random = residual_net(lambda n: n.replace(".", "_")), np.random.default_rng(0)
    for v in twin.weights:
        v.assign(random.uniform(0.5, 1.5, v.shape))
    names = {"kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    arrays = {}
    for layer in NET:
        for v in twin.get_layer(layer.replace(".", "_")).weights:
            a = np.moveaxis(np.asarray(v), (-1, -2), (0, 1)) if v.name == "kernel" else np.asarray(v)
            arrays[f"{layer}.{names.get(v.name, v.name)}"] = np.ascontiguousarray(a)
    save_file(arrays, path)
    return twin


def as_applications(name):
    "`layer2.0.downsample.1` as Keras' own residual nets call it."
    if found := re.fullmatch(r"layer(\d)\.(\d)\.(?:(conv|bn)(\d)|downsample\.(\d))", name):
        kind = found[3] or ("conv", "bn")[int(found[5])]
        return f"conv{int(found[1]) + 1}_block{int(found[2]) + 1}_{found[4] or 0}_{kind}"
    return {"fc": "predictions"}.get(name, f"stem_{name}")


@pytest.mark.parametrize("name", [as_applications, lambda name: None])
def test_normalizations_are_told_by_the_layers_before_them(tmp_path, name):
    """All are alike in their shapes; what is proposed is right."""
    twin, model, x = net_file(tmp_path / "m.safetensors"), residual_net(name), np.random.default_rng(1).normal(size=(2, 8, 8, 3))
    said = re.match(r"(transform='torch', rename=.*) would find everything that is missing", tl.plan(model, tmp_path / "m.safetensors").problems[-1])
    tl.restore(model, tmp_path / "m.safetensors", **eval(f"dict({said[1]})"))
    np.testing.assert_allclose(model(x), twin(x), rtol=1e-4)


@pytest.mark.parametrize("rename", [
    {"one.weight": "a/kernel", "one.bias": "a/bias", "two": "b"}, lambda name: name.replace("one.", "a.").replace("two.", "b."),
    [(r"^one\.", "a."), ("^two/", "b/")], lambda name: name.replace("one", "a").replace("two", "b").replace("weight", "kernel")])
def test_names_of_pytorch_are_renamed_as_they_stand_or_as_they_are_read(tmp_path, rename):
    """With dots or slashes, to a layer or to a variable of the model: square kernels are turned in any case."""
    arrays = {f"{name}.{end}": np.arange(9.0, dtype="float32").reshape(3, 3)[: 3 if end == "weight" else 1].squeeze() + i for i, name in enumerate(("one", "two")) for end in ("weight", "bias")}
    save_file(arrays, tmp_path / "m.safetensors")
    model = dense(3, "a", "b")
    tl.restore(model, tmp_path / "m.safetensors", transform="torch", rename=rename)
    for layer, name in zip(model.layers, ("one", "two")):
        np.testing.assert_array_equal(layer.kernel, arrays[f"{name}.weight"].T)
        np.testing.assert_array_equal(layer.bias, arrays[f"{name}.bias"])


def test_a_library_is_named_where_nothing_tells_its_layers_apart(tmp_path):
    save_file({f"{name}.{end}": np.ones((3, 3)[: 2 - (end == "bias")], "float32") for name in ("mean", "spread") for end in ("weight", "bias")}, tmp_path / "m.safetensors")
    said = tl.plan(dense(3, "a", "b"), tmp_path / "m.safetensors").problems[-1]
    assert "transform='torch' and rename=" in said and "(mean, spread)" in said and "(a, b)" in said


@pytest.mark.parametrize("part", ["lora_A", "lora_A.weight", "lora_B.default.weight"])
def test_an_adapter_of_pytorch_is_not_dropped(tmp_path, part):
    arrays = {"fc.weight": np.ones((3, 3), "float32"), "fc.bias": np.ones(3, "float32"), f"fc.{part}": np.ones((2, 3), "float32")}
    save_file(arrays, tmp_path / "m.safetensors")
    problems = tl.plan(dense(3, "fc"), tmp_path / "m.safetensors", transform="torch").problems
    assert len(problems) == 1 and problems[0].startswith(f"fc.{part}: the model has no place")


def test_a_tree_of_flax_without_its_collection(tmp_path):
    """As `flatten_dict(params)` gives it; a layer of Keras with a variable of that name is none."""
    arrays = {"Dense_0/kernel": np.eye(3), "Dense_0/bias": np.ones(3), "LayerNorm_0/scale": np.full(3, 2.0), "LayerNorm_0/bias": np.zeros(3)}
    np.savez(tmp_path / "m.npz", **arrays)
    model = keras.Sequential([keras.Input((3,)), L.Dense(3, name="Dense_0"), L.LayerNormalization(name="LayerNorm_0")])
    assert "transform='flax' would find everything that is missing." in tl.plan(model, tmp_path / "m.npz").problems
    np.savez(tmp_path / "n.npz", **arrays, **{"norm/gamma": np.ones(3)})
    assert "flax" not in str(tl.plan(model, tmp_path / "n.npz").problems)


@pytest.mark.parametrize("padding, strides, said", [("same", 2, ["padding"]), ("same", 1, []), ("valid", 2, [])])
def test_a_padding_that_pytorch_does_not_have_is_said(tmp_path, padding, strides, said):
    save_file({"c.weight": np.ones((2, 3, 3, 3), "float32"), "c.bias": np.ones(2, "float32")}, tmp_path / "m.safetensors")
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(2, 3, strides, padding, name="c")])
    plan = tl.plan(model, tmp_path / "m.safetensors", transform="torch")
    assert plan.ok and [row["path"].rpartition("/")[2] for row in plan.of("setting")] == said


ADAPTERS = {"peft": ("base_model.model.", "base_layer.", "lora_A.default.weight", "lora_B.default.weight"), "loralib": ("", "", "lora_A", "lora_B"),
            "kohya": ("", "", "lora_down.weight", "lora_up.weight")}
LIKE = {"dense": (L.Dense, (6,), (4,)), "conv": (L.Conv2D, (5, 5, 6), (4, 3))}


@pytest.mark.parametrize("style", ADAPTERS)
@pytest.mark.parametrize("kind", LIKE)
def test_an_adapter_of_another_library_is_added_or_refused(tmp_path, style, kind):
    """Whole, alone, and into a layer that has no place for it, where nothing of it is lost without a word."""
    make, shape, sizes = LIKE[kind]
    build = lambda: keras.Sequential([keras.Input(shape), make(*sizes, name="fc"), make(*sizes, name="out")])
    scope, base, *parts = ADAPTERS[style]
    twin, whole, bare, random = build(), build(), build(), np.random.default_rng(0)
    file = {}
    for layer in twin.layers:
        layer.enable_lora(2)
        for v in layer.weights:
            v.assign(random.normal(size=v.shape))
        turned = [np.moveaxis(np.asarray(v), (-1, -2), (0, 1)) for v in (layer._kernel, layer.lora_kernel_a, layer.lora_kernel_b)]
        if kind == "conv":
            turned[2] = turned[2][..., None, None]
        names = [f"{base}weight", *parts, f"{base}bias"]
        file |= {f"{scope}{layer.name}.{name}": np.ascontiguousarray(a) for name, a in zip(names, [*turned, np.asarray(layer.bias)])}
    save_file(file, tmp_path / "m.safetensors")
    save_file({name: a for name, a in file.items() if "lora" in name}, tmp_path / "alone.safetensors")
    arguments = dict(transform="torch", rename=(f"^{scope}", "") if scope else None)
    refused = tl.plan(bare, tmp_path / "m.safetensors", **arguments).problems
    assert len(refused) == 4 and all("`enable_lora(rank)`" in problem for problem in refused)
    tl.restore(bare, tmp_path / "m.safetensors", **arguments, skip=".*lora_.*")
    for model in whole, bare:
        for layer in model.layers:
            layer.enable_lora(2)
    plan = tl.restore(whole, tmp_path / "m.safetensors", **arguments)
    assert [row["why"] for row in plan.of("setting")] == ["2 for a rank of 2 here; the file does not say"] * 2
    tl.restore(bare, tmp_path / "alone.safetensors", only=".*lora.*", **arguments)
    x = random.normal(size=(2, *shape))
    for model in whole, bare:
        np.testing.assert_allclose(model(x), twin(x), rtol=1e-4, atol=1e-4)


def test_what_no_file_of_pytorch_says_stays_as_it_is(tmp_path):
    """The scale that the user gave an adapter, and an adapter that the file has no part of."""
    save_file({"d.weight": np.eye(3, dtype="float32"), "d.bias": np.ones(3, "float32"), "d.lora_A": np.ones((2, 3), "float32"), "d.lora_B": np.ones((3, 2), "float32")}, tmp_path / "m.safetensors")
    model = dense(3, "d")
    model.layers[0].enable_lora(2, lora_alpha=5)
    tl.restore(model, tmp_path / "m.safetensors", transform="torch")
    assert model.layers[0].lora_alpha == 5
    tl.restore(model, tmp_path / "m.safetensors", transform="torch", skip=".*lora.*")
    np.testing.assert_array_equal(model.layers[0].kernel, np.eye(3))


@pytest.mark.parametrize("name", [lambda n: n, lambda n: None, lambda n: n.replace("bn", "n_").replace("conv", "c_")])
def test_a_normalization_before_its_layer_is_told_by_numbers(tmp_path, name):
    x = h = keras.Input((4, 4, 3))
    for i in (1, 2):
        h = L.Conv2D(3, 1, use_bias=False, name=name(f"conv{i}"))(L.BatchNormalization(epsilon=1e-5, name=name(f"bn{i}"))(h))
    model, arrays = keras.Model(x, h), {}
    for i in (1, 2):
        arrays |= {f"bn{i}.{end}": np.full(3, i, "float32") for end in ("weight", "bias", "running_mean", "running_var")} | {f"conv{i}.weight": np.full((3, 3, 1, 1), i, "float32")}
    save_file(arrays, tmp_path / "m.safetensors")
    said = re.match(r"(transform='torch'.*) would find everything that is missing", tl.plan(model, tmp_path / "m.safetensors").problems[-1])
    tl.restore(model, tmp_path / "m.safetensors", **eval(f"dict({said[1]})"))
    assert [float(np.ravel(layer.weights[0])[0]) for layer in model.layers if layer.weights] == [1, 1, 2, 2]
