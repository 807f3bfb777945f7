"""Random graphs: whatever the wiring, the two parts of a split are the model, and training on stored features is training."""
import os

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from keras import layers as L

from transferlit.cut import lower, split

EXAMPLES = int(os.environ.get("TRANSFERLIT_EXAMPLES", 25))
random_graphs = settings(max_examples=EXAMPLES, deadline=None, derandomize=True,
                         phases=[Phase.explicit, Phase.generate],
                         suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
WIDTH = 4


def layer_for(kind, n):
    """One layer that maps (None, WIDTH) to itself."""
    name = f"{kind}{n}"
    return {"dense": lambda: L.Dense(WIDTH, "tanh", name=name), "norm": lambda: L.LayerNormalization(name=name),
            "batch": lambda: L.BatchNormalization(name=name), "drop": lambda: L.Dropout(0.3, name=name),
            "relu": lambda: L.ReLU(name=name), "scale": lambda: L.Rescaling(0.5, 0.1, name=name),
            "double": lambda: L.Lambda(lambda t: t * 2, name=name), "half": lambda: L.Dense(WIDTH, dtype="mixed_float16", name=name),
            "up": lambda: keras.Sequential([L.RepeatVector(3), L.Flatten(), L.Dense(WIDTH)], name=name)}[kind]()


@st.composite
def graphs(draw, kinds=("dense", "norm", "batch", "drop", "relu", "scale", "double", "half", "up"), depth=2, inputs=None):
    """A functional model with residual connections, shared layers, nested models, several inputs and outputs; parts frozen."""
    starts = [keras.Input((WIDTH,)) for _ in range(inputs or draw(st.integers(1, 2)))]
    values, called = list(starts), []
    for n in range(draw(st.integers(2, 6))):
        pick = draw(st.sampled_from(["layer"] * 5 + ["join", "op", "again"] + ["nest"] * (depth > 0)))
        a, b = (values[draw(st.integers(0, len(values) - 1))] for _ in range(2))
        if pick == "join": made = draw(st.sampled_from([L.Add, L.Multiply, L.Maximum]))(name=f"join{n}")([a, b])
        elif pick == "op": made = a * 0.5 + keras.ops.relu(b)
        elif pick == "again" and called: made = draw(st.sampled_from(called))(a)
        elif pick == "nest":
            inner = draw(graphs(kinds, depth - 1, inputs=2))
            inner.name = f"nest{n}"
            made = draw(st.sampled_from(keras.tree.flatten(inner([a, b]))))
            called.append(lambda t, inner=inner: keras.tree.flatten(inner([t, t]))[0])
        else:
            layer = layer_for(draw(st.sampled_from(kinds)), n)
            layer.trainable = draw(st.sampled_from([False, False, True]))
            called.append(layer)
            made = layer(a)
        values.append(made)
    ends = values[-1:] + draw(st.lists(st.sampled_from(values[len(starts):]), max_size=2, unique_by=id))
    ends = [t for i, t in enumerate(ends) if all(t is not e for e in ends[:i])]
    return keras.Model(starts, ends if len(ends) > 1 else ends[0])


def rows(model, n=6, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, WIDTH)).astype("float32") for _ in model.inputs]


def arrays(made):
    return [np.asarray(keras.ops.convert_to_numpy(t)) for t in keras.tree.flatten(made)]


def equal(left, right):
    assert [a.shape for a in left] == [b.shape for b in right]
    for a, b in zip(left, right):
        np.testing.assert_array_equal(a, b)


@random_graphs
@given(graphs(), st.booleans())
def test_the_two_parts_are_the_model_bit_for_bit(model, inference):
    cut, x = split(model, inference=inference), rows(model)
    features = [keras.ops.convert_to_tensor(a) for a in arrays(cut.lower(x))] # values alone, as a file keeps them
    equal(arrays(cut.upper(features if len(features) > 1 else features[0])), arrays(model(x)))
    assert [tuple(a.shape[1:]) for a in arrays(features)] == [b.shape for b in cut.boundary]
    assert not cut.lower.trainable_variables
    assert {id(v) for v in cut.upper.trainable_variables} <= {id(v) for v in model.trainable_variables}


@random_graphs
@given(graphs())
def test_what_lies_below_is_the_same_in_training(model):
    cut, x = split(model), rows(model)
    equal(arrays(cut.lower(x, training=True)), arrays(cut.lower(x, training=False)))
    part = [a[3:] for a in x]
    for whole, alone in zip(arrays(cut.lower(x)), arrays(cut.lower(part))):
        np.testing.assert_allclose(whole[3:].astype("float32"), alone.astype("float32"), rtol=1e-2 if whole.dtype == "float16" else 1e-5, atol=1e-3 if whole.dtype == "float16" else 1e-5)


@random_graphs
@given(graphs(), st.data())
def test_every_layer_is_a_place_to_cut(model, data):
    name = data.draw(st.sampled_from([layer.name for layer in model.layers if not isinstance(layer, L.InputLayer)] or [None]))
    if name is None:
        return
    whole = keras.Model(model.inputs, model.get_layer(name)._inbound_nodes[-1].output_tensors)
    x = rows(model)
    if len(model.get_layer(name)._inbound_nodes) == 1:
        equal(arrays(lower(model, name)(x)), arrays(whole(x)))


OPTIMIZERS = {"sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9), "adam": lambda: keras.optimizers.Adam(0.01),
              "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1)}


def losses_for(model):
    return ["mse"] * len(model.outputs)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@settings(random_graphs, max_examples=max(3, EXAMPLES // 5))
@given(graphs(kinds=("dense", "norm", "batch", "relu", "scale", "double", "half", "up")))
def test_training_on_features_is_training(optimizer, model):
    """Keras' own `fit` on the upper part, against `fit` on the model: the same weights at the end."""
    if not model.trainable_variables:
        return
    x, start = rows(model, 24), model.get_weights()
    y = [np.ones((24, WIDTH), "float32")] * len(model.outputs)
    ends = []
    for way in "model", "features":
        model.set_weights(start)
        cut = split(model)
        net, data = (model, x) if way == "model" else (cut.upper, arrays(cut.lower(x)))
        net.compile(OPTIMIZERS[optimizer](), losses_for(model))
        net.fit(data if len(data) > 1 else data[0], y if len(y) > 1 else y[0], batch_size=8, epochs=2, shuffle=False, verbose=0)
        ends.append(model.get_weights())
    halves = any("float16" in layer.dtype_policy.name for layer in model._flatten_layers())
    for a, b in zip(*ends):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-2 if halves else 2e-4)
