"""`trainability` says what Keras trains, and `freeze` and `thaw` change what was asked for and nothing else."""
import keras
import numpy as np
import pytest
from keras import layers as L

import transferlit as tl

X = np.random.default_rng(0).normal(size=(24, 5, 4)).astype("float32")
Y = np.arange(24) % 3


class Listed(L.Layer):
    "A layer that keeps its parts in a private list and a dictionary."

    def __init__(self, **more):
        super().__init__(**more)
        self._parts = [L.Dense(4, name="first"), L.BatchNormalization(name="norm")]
        self.table = {"last": L.Dense(3, name="last")}
        self.layers = 2  # a name that models use for something else

    def build(self, shape):
        for part in self._parts:
            part.build(shape)
            shape = part.compute_output_shape(shape)
        self.table["last"].build(shape)
        self.built = True

    def call(self, x, training=None):
        x = self._parts[1](self._parts[0](x), training=training)
        return self.table["last"](x)


class Attention(L.Layer):
    def __init__(self, **more):
        super().__init__(**more)
        self.inner = L.MultiHeadAttention(2, 2, name="mha")

    def build(self, shape):
        self.inner.build(shape, shape)
        self.built = True

    def call(self, x):
        return self.inner(x, x)


def branch():
    x = keras.Input((5, 4))
    h = L.BatchNormalization(name="bn")(L.Dense(4, name="q")(x))
    return keras.Model(x, L.Dense(4, name="v")(h), name="branch")


WRAPPERS = {
    "bidirectional": lambda: L.Bidirectional(L.LSTM(3, return_sequences=True), name="part"),
    "time distributed": lambda: L.TimeDistributed(L.Dense(3), name="part"),
    "attention": lambda: Attention(name="part"),
    "private lists": lambda: Listed(name="part"),
    "cells": lambda: L.RNN([L.LSTMCell(3), L.GRUCell(2)], return_sequences=True, name="part"),
    "nested": branch,
    "nested twice": lambda: keras.Sequential([keras.Input((5, 4)), branch()], name="part"),
    "time distributed model": lambda: L.TimeDistributed(
        keras.Sequential([keras.Input((4,)), L.Dense(3, name="d")], name="m"), name="part"),
}


def model_with(part, compiled=True):
    keras.utils.set_random_seed(0)
    x = keras.Input((5, 4))
    model = keras.Model(x, L.Dense(3, name="head")(L.Flatten()(part(L.Dense(4, name="body")(x)))))
    if compiled:
        model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def said(model):
    paths = tl.by_path(model)
    return {id(paths[row["path"]]) for row in tl.trainability(model).rows if row["trains"]}


def trains(model):
    return {id(v) for v in model.trainable_variables}


def flags(model):
    parts = model._flatten_layers()
    return {p.path or p.name: p.trainable for p in parts}, [v.trainable for v in model.weights]


def values(model):
    return {path: keras.ops.convert_to_numpy(v).copy() for path, v in tl.by_path(model).items()}


def moved(model, was):
    return {path for path, v in values(model).items() if not np.array_equal(v, was[path])}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_freezing_a_part_and_thawing_it_is_there_and_back(kind):
    part = WRAPPERS[kind]()
    model = model_with(part)
    inside, start, was = {id(v) for v in part.weights}, trains(model), values(model)
    tl.freeze(model, part)
    assert said(model) == trains(model) == start - inside
    model.fit(X, Y, verbose=0)
    paths = {path for path, v in tl.by_path(model).items() if id(v) in inside}
    assert not moved(model, was) & paths and moved(model, was)
    tl.thaw(model, part.name)
    assert said(model) == trains(model) == start
    assert all(p.trainable for p in model._flatten_layers())


@pytest.mark.parametrize("kind", WRAPPERS)
def test_what_is_thawed_inside_a_frozen_part_survives(kind):
    part = WRAPPERS[kind]()
    model = model_with(part)
    child = [p for p in part._flatten_layers() if p.weights][-1]
    part.trainable = False
    child.trainable = True
    kept = trains(model)
    assert said(model) == kept and kept & {id(v) for v in child.weights}
    before = flags(model)
    table = tl.freeze(model, "head/bias")
    assert trains(model) == said(model) == kept - {id(model.get_layer("head").bias)}
    before[1][-1] = False  # the bias is the last variable
    assert flags(model) == before and len(table) == len(model.weights)


def test_adapters_survive():
    part = branch()
    model = model_with(part)
    part.trainable = False
    part.get_layer("q").trainable = True  # as backbones do before they add adapters
    part.get_layer("q").enable_lora(2)
    lora = {id(v) for v in part.weights if "lora" in v.path}
    assert len(lora) == 2 and lora <= trains(model) == said(model)
    tl.freeze(model, "body")
    assert lora <= trains(model) == said(model)
    tl.thaw(model, "body")
    assert lora <= trains(model) and id(part.get_layer("q")._kernel) not in trains(model)


def test_flags_that_contradict_each_other():
    model = model_with(branch())
    model.trainable = False
    model.get_layer("branch").trainable = True  # the model itself is frozen: nothing trains
    assert said(model) == trains(model) == set()
    before = flags(model)
    tl.freeze(model, "branch/q")
    assert not trains(model) and flags(model)[0]["branch"] == before[0]["branch"]
    tl.thaw(model, "head")
    assert trains(model) == said(model) == {id(v) for v in model.get_layer("head").weights}


def test_statistics_move_only_where_they_are_thawed():
    model = model_with(branch())
    tl.freeze(model, "branch")
    tl.thaw(model, "branch/bn/gamma")
    was = values(model)
    model.fit(X, Y, verbose=0)
    assert "branch/bn/gamma" in moved(model, was)
    assert not {"branch/bn/moving_mean", "branch/bn/beta", "branch/q/kernel"} & moved(model, was)
    tl.thaw(model, "branch/bn")
    was = values(model)
    model.fit(X, Y, verbose=0)
    assert "branch/bn/moving_mean" in moved(model, was) and "branch/q/kernel" not in moved(model, was)


def test_a_normalization_inside_a_layer_stands_still_when_frozen():
    model = model_with(Listed(name="part"))
    tl.freeze(model, "part/norm")
    was = values(model)
    model.fit(X, Y, verbose=0)
    assert not {p for p in moved(model, was) if p.startswith("part/norm")} and "part/first/kernel" in moved(model, was)


def test_random_flags_are_reported_and_kept():
    rng = np.random.default_rng(1)
    for _ in range(20):
        model = model_with(list(WRAPPERS.values())[rng.integers(len(WRAPPERS))](), compiled=False)
        for part in model._flatten_layers():
            if rng.random() < 0.3:
                part.trainable = bool(rng.integers(2))
        for v in model.weights:
            if rng.random() < 0.1 and v.trainable:
                v.trainable = False
        kept = trains(model)
        assert said(model) == kept
        paths = list(tl.by_path(model))
        chosen = tl.select(model, [paths[i] for i in rng.choice(len(paths), 3, replace=False)])
        ids = {id(v) for v in chosen.values()}
        tl.freeze(model, list(chosen))
        assert said(model) == trains(model) == kept - ids
        tl.thaw(model, list(chosen))
        gradients = {id(v) for p in model._flatten_layers() for v in p._trainable_variables}
        assert said(model) == trains(model) == kept | (ids & gradients)


def test_a_shared_layer_has_one_state():
    x, shared = keras.Input((5, 4)), L.Dense(4, name="shared")
    outer = keras.Sequential([keras.Input((5, 4)), shared], name="outer")
    model = keras.Model(x, L.Dense(2, name="head")(outer(shared(x))))
    tl.freeze(model, model.get_layer("outer"))
    assert not shared.trainable and trains(model) == said(model)
    tl.thaw(model, shared)
    assert shared.trainable and trains(model) == said(model)


@pytest.mark.parametrize("act", [tl.freeze, tl.thaw])
@pytest.mark.parametrize("given", [[], (), L.Dense(2, name="stranger"), ["head", L.Dropout(0.1)], "bodi", None, 3])
def test_a_wrong_choice_is_refused_and_changes_nothing(act, given):
    model = model_with(branch())
    tl.freeze(model, "branch/bn")
    before = flags(model)
    with pytest.raises(ValueError, match="Received"):
        act(model, given)
    assert flags(model) == before


@pytest.mark.parametrize("name", ["Adam", "Muon", "Nadam", "Ftrl", "Lamb", "ScheduleFreeAdamW"])
def test_the_state_of_what_goes_on_training_goes_on(name):
    if not hasattr(keras.optimizers, name):
        pytest.skip(f"{name} is not in Keras {keras.__version__}")
    model = model_with(L.Dense(4, name="part"), compiled=False)
    model.compile(getattr(keras.optimizers, name)(learning_rate=0.01),
                  keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    try:
        model.fit(X, Y, verbose=0)
    except AttributeError as error:  # of Keras' own: Muon before 3.13, with TensorFlow
        pytest.skip(f"{name} of Keras {keras.__version__} trains nothing: {error}")
    own = {v.path: keras.ops.convert_to_numpy(v).copy() for v in model.optimizer.variables}
    count = len(model.optimizer.variables)
    tl.freeze(model, "body")
    paths = [v.path for v in model.optimizer.variables]  # Ftrl of Keras 3.7 names accumulators alike
    slots = [v for v in model.optimizer.variables if v.path in own and paths.count(v.path) == 1]  # one of Nadam has no name
    assert len(slots) > 2
    for v in slots:
        np.testing.assert_array_equal(v, own[v.path], err_msg=v.path)
    assert len(model.optimizer.variables) < count
