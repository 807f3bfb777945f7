"""Each kind of layer of Keras 2: revived it computes what Keras 2 did, or it is refused with the reason."""
import json
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import transferlit as tl

sys.path.insert(0, str(Path(__file__).parent))
from keras2_layers import TABLE, array, inputs, summary, write  # noqa: E402

ENTRIES = {e["kind"]: e for e in json.loads(TABLE.read_text())}
REFUSED = {"LC1": "Keras 3 has no such layer", "LC2": "Keras 3 has no such layer", "TimeMajor": "time_major=True", "ResizingG": "resizes images in the ways"}


def revived(kind, folder): return tl.revive(write(ENTRIES[kind], folder/"m.h5"))


def computed(model, entry):
    arrays = inputs(entry)
    given = arrays if len(arrays) > 1 else arrays[0]
    named = getattr(model, "_inputs_struct", None)
    if isinstance(named, dict): given = dict(zip(named, arrays))
    return [np.asarray(a) for a in keras.tree.flatten(model(given, training=False))]


@pytest.mark.parametrize("kind", sorted(set(ENTRIES) - set(REFUSED)))
def test_kind(kind, tmp_path):
    entry = ENTRIES[kind]
    shapes, numbers = summary(computed(revived(kind, tmp_path).to_keras(), entry))
    assert shapes == entry["shapes"]
    np.testing.assert_allclose(numbers, entry["numbers"], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_refused_with_the_reason(kind, tmp_path):
    with pytest.raises(ValueError, match=REFUSED[kind]): revived(kind, tmp_path)


def test_the_numbers_tell_weights_apart(tmp_path):
    "The comparison fails where one weight is another."
    model = revived("Dense", tmp_path).to_keras()
    model.layers[-1].bias.assign_add([1., 0, 0])
    numbers = summary(computed(model, ENTRIES["Dense"]))[1]
    assert not np.allclose(numbers, ENTRIES["Dense"]["numbers"], rtol=2e-4, atol=2e-4)


def test_a_name_with_a_slash_is_told_and_found(tmp_path):
    old = revived("dotted_names", tmp_path)
    assert any("out/put" in note for note in old.notes)
    assert old.to_keras(outputs="out/put").layers[-1].name == "out_put"
    name, shape, dtype = next(w for n, ws in ENTRIES["dotted_names"]["layers"] if n == "out/put" for w in ws)
    np.testing.assert_array_equal(old.to_keras().get_layer("out_put").kernel, array("out/put", name, shape, dtype))


@keras.saving.register_keras_serializable("tests")
class Written(keras.Model):
    "A model whose layers are connected by its code alone."
    def __init__(self, **more):
        super().__init__(**more)
        self.body, self.head = keras.layers.Dense(3, name="body"), keras.layers.Dense(2, name="head")

    def call(self, x):
        return self.head(self.body(x))


def test_a_part_that_cannot_be_had_is_told(tmp_path):
    shared = keras.layers.Dense(4, name="shared")
    x = keras.Input((4,), name="X")
    keras.Model(x, keras.layers.Dense(2, name="head")(shared(shared(x)))).save(tmp_path / "graph.keras")
    written = Written()
    written(np.zeros((1, 4), "float32"))
    written.save(tmp_path / "written.keras")
    graph, code = (tl.revive(tmp_path / f"{name}.keras") for name in ("graph", "written"))
    for asked in ("haed", "head/kernel", 3, ["head", "nowhere"]):
        with pytest.raises(ValueError, match="Choose among: X, shared, head"): graph.to_keras(outputs=asked)
    with pytest.raises(ValueError, match="Choose among"): graph.to_keras(inputs="Y")
    for old, name in ((graph, "shared"), (code, "body")):
        with pytest.raises(ValueError, match=f"one place in a graph .*cut that.* Received: '{name}'"): old.to_keras(outputs=name)
    assert graph.to_keras(outputs="head").name and code.to_keras().name


class Gained(keras.layers.Layer):
    "A layer of one's own, called otherwise here than in its file."
    def build(self, shape): self.gain = self.add_weight(name="gain", shape=(shape[-1],))
    def call(self, x): return x*self.gain


CODE = ["4wEAAAABAAAA", None, None]  # what Keras 2 wrote of a `lambda`; it is never read
MARSHALED = dict(class_name="__lambda__", config=dict(code=CODE[0], defaults=None, closure=None))


def own(kind, name, weights=(), **config):
    "The file of a layer that Keras 2 does not have, with what it says of itself."
    layers = [dict(class_name=kind, config=dict(name=name, batch_input_shape=[None, 3], dtype="float32", trainable=True, **config))]
    return dict(kind=name, version="2.4.0", config=dict(class_name="Sequential", config=dict(name="s", layers=layers)), layers=[(name, list(weights))])


def function(written, **more): return own("Lambda", "twice", function=written, function_type="lambda", module="__main__", output_shape=None, output_shape_type="raw", output_shape_module=None, arguments=more)


def by(x, factor=2.): return x*factor


@pytest.mark.parametrize("written", [CODE, MARSHALED, "by"], ids=["code", "marshaled", "name"])
@pytest.mark.parametrize("arguments, expected", [({}, 2.), ({"factor": 3.}, 3.)], ids=["alone", "with arguments"])
def test_a_function_that_is_given_stands_for_the_one_in_the_file(written, arguments, expected, tmp_path):
    path, x = write(function(written, **arguments), tmp_path/"m.h5"), np.ones((2, 3), "float32")
    assert np.array_equal(tl.revive(path, custom_objects={"twice": by}).to_keras()(x), x*expected)
    with pytest.raises(ValueError, match="custom_objects.*twice"): tl.revive(path)


def test_a_function_is_given_by_its_own_name(tmp_path):
    x = np.ones((2, 3), "float32")
    assert np.array_equal(tl.revive(write(function("by"), tmp_path/"m.h5"), custom_objects={"by": by}).to_keras()(x), x*2)


@pytest.mark.parametrize("written, given", [("Gain", "Gain"), ("mine>Gain", "Gain"), ("mine>Gain", "mine>Gain")])
def test_a_class_may_be_called_otherwise_here(written, given, tmp_path):
    path = write(own(written, "g", [("g/gain:0", [3], "float32")]), tmp_path/"m.h5")
    model, x = tl.revive(path, custom_objects={given: Gained}).to_keras(), np.ones((2, 3), "float32")
    np.testing.assert_allclose(model(x), x*array("g", "g/gain:0", [3], "float32"), rtol=1e-6)


def called(kind, name, config, shape=(None, 3), **operands):
    "The file of a functional model of one layer."
    first = dict(class_name="InputLayer", name="x", inbound_nodes=[], config=dict(name="x", batch_input_shape=list(shape), dtype="float32"))
    node = ["x", 0, 0, operands]
    calls = [node] if kind == "TFOpLambda" else [[node]]
    call = dict(class_name=kind, name=name, config=dict(name=name, trainable=True, dtype="float32", **config), inbound_nodes=calls)
    whole = dict(name="m", layers=[first, call], input_layers=[["x", 0, 0]], output_layers=[[name, 0, 0]])
    return dict(kind=name, version="2.4.0", config=dict(class_name="Functional", config=whole), layers=[])


def operation(name, **operands): return called("TFOpLambda", name, dict(function=name), **operands)


def test_a_class_of_a_keras_file_may_be_called_otherwise_here(tmp_path):
    "Its arrays lie under the name of the class in the file."
    kind = type("Weighed", (Gained,), {"__module__": __name__})
    model = keras.Sequential([keras.Input((3,)), kind(name="gain")])
    model.set_weights([np.array([2., 3, 4])])
    model.save(tmp_path/"m.keras")
    found = tl.revive(tmp_path/"m.keras", custom_objects={"Weighed": Gained}).to_keras()
    np.testing.assert_array_equal(found.get_weights()[0], [2, 3, 4])
    assert Gained.__name__ == "Gained" and type(found.get_layer("gain")) is Gained


class Halved(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None): return keras.ops.full(shape, .5, dtype)


@pytest.mark.parametrize("layer", ["Dense", "Activation"])
def test_what_a_layer_names_is_given(layer, tmp_path):
    "An activation and an initializer of one's own, by their names alone."
    more = dict(units=2, bias_initializer="Halved") if layer == "Dense" else {}
    weights = [("d/kernel:0", [3, 2], "float32"), ("d/bias:0", [2], "float32")] if more else []
    path = write(own(layer, "d", weights, activation="by", **more), tmp_path/"m.h5")
    model, x = tl.revive(path, custom_objects={"by": by, "Halved": Halved}).to_keras(), np.ones((2, 3), "float32")
    plain = x@array("d", *weights[0]) + array("d", *weights[1]) if more else x
    np.testing.assert_allclose(model(x), 2*plain, rtol=1e-5)
    assert not more or isinstance(model.layers[0].bias_initializer, Halved)


def masked(name):
    "The file of two embeddings with masks, joined by a layer of this name."
    def layer(kind, name, before, **config): return dict(class_name=kind, name=name, inbound_nodes=[[[b, 0, 0, {}] for b in before]], config=dict(name=name, trainable=True, dtype="float32", **config))
    first = dict(class_name="InputLayer", name="x", inbound_nodes=[], config=dict(name="x", batch_input_shape=[None, 3], dtype="int32"))
    tables = [layer("Embedding", n, ["x"], input_dim=5, output_dim=2, mask_zero=True) for n in ("a", "b")]
    rest = [layer("Concatenate", name, ["a", "b"], axis=-1), layer("SimpleRNN", "end", [name], units=2)]
    whole = dict(name="m", layers=[first, *tables, *rest], input_layers=[["x", 0, 0]], output_layers=[["end", 0, 0]])
    arrays = [(n, [(f"{n}/embeddings:0", [5, 2], "float32")]) for n in "ab"]
    cell = [("end/kernel:0", [4, 2], "float32"), ("end/recurrent_kernel:0", [2, 2], "float32"), ("end/bias:0", [2], "float32")]
    return dict(kind="masked", version="2.4.0", config=dict(class_name="Functional", config=whole), layers=[*arrays, ("end", cell)])


@pytest.mark.parametrize("count", [0, 2])
def test_what_joins_masks_takes_no_name_of_the_file(count, tmp_path):
    "Keras names the operation that joins two masks as it would name the next layer of the kind."
    path = write(masked("concatenate" if count == 0 else f"concatenate_{count}"), tmp_path/"m.h5")
    keras.backend.clear_session()
    for _ in range(count): keras.backend.get_uid("concatenate")
    model = tl.revive(path).to_keras()
    given = [array(n, *spec) for n, specs in masked("c")["layers"] for spec in specs]
    assert all(np.array_equal(w, a) for w, a in zip(model.get_weights(), given, strict=True))


def test_whole_parts_of_a_quotient(tmp_path):
    x = np.float32([[-3, 1, 5]])
    assert np.array_equal(tl.revive(write(operation("compat.v1.floor_div", y=2.), tmp_path/"m.h5")).to_keras()(x), x//2)


@pytest.mark.parametrize("name, sign", [("__operators__.add", 1), ("math.subtract", -1)])
@pytest.mark.parametrize("numbers", [[1., 2., 4.], [[1., 2., 4.]], [1, 2, 4]])
def test_numbers_in_a_row_are_added(name, sign, numbers, tmp_path):
    "As a mean per channel is taken away, or positions are added."
    x = np.float32([[-3, 1, 5], [0, 2, 2]])
    model = tl.revive(write(operation(name, y=numbers), tmp_path/"m.h5")).to_keras()
    np.testing.assert_allclose(model(x), x + sign*np.float32(numbers))


@pytest.mark.parametrize("name, reason", [("__operators__.eq", "must name what it is called with"), ("io.read_file", "must be known to compute")])
def test_an_operation_is_refused_with_its_own_reason(name, reason, tmp_path):
    with pytest.raises(ValueError, match=reason): tl.revive(write(operation(name), tmp_path/"m.h5"))


def test_what_a_layer_of_ones_own_lacks_is_said_in_plain_words(tmp_path):
    "Keras 3 asks a layer in `TimeDistributed` for its output shape."
    inner = dict(class_name="Gain", config=dict(name="g", dtype="float32"))
    path = write(called("TimeDistributed", "t", dict(layer=inner), (None, 2, 3)), tmp_path/"m.h5")
    with pytest.raises(ValueError, match="compute_output_shape") as told: tl.revive(path, custom_objects={"Gain": Gained})
    assert "\x1b" not in str(told.value)


@pytest.mark.parametrize("kind", ["StackConv", "nested_twice"])
def test_weights_beside_their_architecture(kind, tmp_path):
    entry, whole, weights = ENTRIES[kind], write(ENTRIES[kind], tmp_path/"whole.h5"), tmp_path/"model.h5"
    with h5py.File(whole) as source, h5py.File(weights, "w") as file: # as `save_weights` lays them out
        for name in source["model_weights"]: source.copy(f"model_weights/{name}", file)
        file.attrs.update(source["model_weights"].attrs)
    with pytest.raises(ValueError, match="beside it, under its name"): tl.revive(weights)
    (tmp_path/"model.json").write_text(json.dumps(entry["config"] | {"keras_version": "2.3.1", "backend": "tensorflow"}))
    old = tl.revive(weights)
    assert "the architecture is that of model.json" in old.notes
    for one, other in zip(computed(old.to_keras(), entry), computed(tl.revive(whole).to_keras(), entry)): np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"Give the `\.h5` file"): tl.revive(tmp_path/"model.json")
    (tmp_path/"model.json").write_text("{")
    with pytest.raises(ValueError, match="json"): tl.revive(weights)
