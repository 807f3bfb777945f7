"""Models that were made, trained and dropped, one after the other: nothing of them stays, and no more than under Keras.

TRANSFERLIT_MODELS sets how many are trained each way (5).
"""
import gc
import os
import weakref

import keras
import numpy as np
import pytest

import transferlit as tl

MODELS = int(os.environ.get("TRANSFERLIT_MODELS", 5))
X = np.random.default_rng(0).normal(size=(64, 20)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int64")


def made():
    layers = keras.layers
    model = keras.Sequential([keras.Input((20,)), layers.Dense(32, "relu", name="a"), layers.Dense(2, name="b")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def by_keras(model):
    model.fit(X, Y, epochs=1, verbose=0)


def by_fit(model):
    tl.fit(model, X, Y, epochs=1, verbose=0)


def by_features(model):
    tl.freeze(model, "a")
    tl.fit(model, X, Y, epochs=2, batch_size=16, validation_data=(X, Y), verbose=0)


def left(train):
    """Objects of Python that each trained model leaves; the models themselves must be gone."""
    models = []
    for n in range(MODELS + 2):
        model = made()
        models.append(weakref.ref(model))
        train(model)
        del model
        if n == 1:  # what is made once is there
            gc.collect()
            before = len(gc.get_objects())
    gc.collect()
    assert not [m for m in models if m() is not None], "models that nobody uses any more"
    return (len(gc.get_objects()) - before) / MODELS


@pytest.fixture(scope="module")
def keras_own():
    return left(by_keras)


@pytest.mark.parametrize("train", [by_fit, by_features])
def test_trained_models_leave_no_more_than_under_keras(train, keras_own):
    ours = left(train)
    print(f"{train.__name__}: {ours:,.0f} objects a model, {keras_own:,.0f} under Keras")
    assert ours <= keras_own
