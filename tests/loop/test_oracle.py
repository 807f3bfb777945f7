"""`tl.fit` beside `Model.fit`, drawn: families of models, kinds of data, options and callbacks.

History, every variable and the optimizer's state are compared; an error must be an error of both, and a training that
is left to Keras must say so. `TRANSFERLIT_ORACLE=500` draws as many examples.
"""
import importlib
import os
import random
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, note, settings, strategies as st
from keras import layers, losses, optimizers

import transferlit as tl

EXAMPLES = int(os.environ.get("TRANSFERLIT_ORACLE", 12))
ROWS = 30
rng = np.random.default_rng(0)
X = rng.normal(size=(ROWS, 6)).astype("float32")
Y = rng.integers(0, 3, ROWS)
W = (rng.random(ROWS) + 0.5).astype("float32")
SPARSE = losses.SparseCategoricalCrossentropy(from_logits=True)


def body(inputs, units=5):
    return layers.Dense(units, "relu", name="body")(inputs)


class Step(keras.Model):
    """A step of its own, that calls Keras' and logs one thing more."""

    def train_step(self, data):
        x, *_ = data
        return {**super().train_step(data), "mean": tf.reduce_mean(x)}


class Loss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y, y_pred, sample_weight, training) + 0.01 * tf.reduce_sum(y_pred**2)


class Whole(keras.Model):
    """A step written out, that logs less than its metrics hold."""

    def train_step(self, data):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            prediction = self(x, training=True)
            loss = self.compute_loss(x, y, prediction, weight)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {**self.compute_metrics(x, y, prediction, weight), "batch": loss}


class Examined(keras.Model):
    """Only its test step is its own, and looks at x."""

    def test_step(self, data):
        x, *_ = data
        return {**super().test_step(data), "sum": tf.reduce_sum(x)}


class Counted(layers.Layer):
    """It keeps a metric of what passes."""

    def __init__(self, **more):
        super().__init__(**more)
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, x):
        self.seen.update_state(keras.ops.mean(x))
        return x


class Checked(keras.Model):
    """It evaluates in its own way."""

    def evaluate(self, *args, **more):
        return {**super().evaluate(*args, **more), "own": 1.0}


class Layered(keras.Model):
    def __init__(self):
        super().__init__()
        self.body, self.head = layers.Dense(5, "relu", name="body"), layers.Dense(3, name="head")

    def call(self, x, training=None):
        return self.head(self.body(x))


def sequential():
    return keras.Sequential([keras.Input((6,)), layers.Dense(5, "relu", name="body"), layers.Dense(3, name="head")])


def unbuilt():
    return keras.Sequential([layers.Dense(5, "relu", name="body"), layers.Dense(3, name="head")])


def functional(cls=keras.Model, out=lambda t: t, between=lambda t: t):
    inputs = keras.Input((6,))
    return cls(inputs, out(layers.Dense(3, name="head")(between(body(inputs)))))


def nested():
    inner_in = keras.Input((6,))
    inner = keras.Model(inner_in, body(inner_in), name="inner")
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3, name="head")(inner(inputs)))


def shared():
    inputs = keras.Input((6,))
    twice = layers.Dense(6, "tanh", name="body")
    return keras.Model(inputs, layers.Dense(3, name="head")(twice(twice(inputs))))


def branches():
    inputs = keras.Input((6,))
    h = layers.concatenate([body(inputs), layers.Dense(2, name="side")(inputs)])
    return keras.Model(inputs, layers.Dense(3, name="head")(h))


def adapted():
    model = functional(between=layers.Dense(6, name="between"))
    for name in "body", "between":
        model.get_layer(name).enable_lora(2)
    return model


def quantized():
    model = functional()
    model.get_layer("body").quantize("int8")
    return model


def half():
    """Its outputs are beyond float16, so that steps are left out until the scale of the loss has come down."""
    policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    inputs = keras.Input((6,))
    h = layers.Dense(5, "relu", name="body", dtype=policy)(inputs)
    return keras.Model(inputs, layers.Dense(3, name="head", dtype=policy)(layers.Rescaling(3000.0, dtype=policy)(h)))


def masked():
    inputs = keras.Input((6,))
    words = keras.ops.cast(keras.ops.clip(inputs * 2 + 3, 0, 6), "int32")
    h = layers.Embedding(7, 4, mask_zero=True, name="body")(words)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.LSTM(3)(h)))


def stateful():
    inputs = keras.Input((6,), batch_size=10)
    h = layers.Dense(6, name="body")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GRU(4, stateful=True)(layers.Reshape((3, 2))(h))))


FAMILIES = {
    "sequential": sequential,
    "unbuilt": unbuilt,
    "functional": functional,
    "list of one": lambda: functional(out=lambda t: [t]),
    "own step": lambda: functional(Step),
    "own loss": lambda: functional(Loss),
    "step in full": lambda: functional(Whole),
    "own test step": lambda: functional(Examined),
    "metric in a layer": lambda: functional(between=Counted()),
    "lora": adapted,
    "quantized": quantized,
    "half precision": half,
    "masked": masked,
    "stateful": stateful,
    "own evaluate": lambda: functional(Checked),
    "subclassed": Layered,
    "nested": nested,
    "shared layer": shared,
    "branches": branches,
    "normalized": lambda: functional(between=layers.BatchNormalization(name="norm")),
    "dropout": lambda: functional(between=layers.Dropout(0.3, seed=4)),
}
OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.1),
    "adam": lambda: optimizers.Adam(0.01),
    "schedule": lambda: optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 3, 0.5), momentum=0.9),
    "clipped": lambda: optimizers.SGD(0.1, global_clipnorm=0.1),
    "accumulated": lambda: optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "clipped, accumulated": lambda: optimizers.SGD(0.1, momentum=0.9, clipnorm=0.1, gradient_accumulation_steps=2),
    "clipped by value": lambda: optimizers.RMSprop(0.01, clipvalue=0.02),
    "decayed": lambda: optimizers.AdamW(0.01, weight_decay=0.1, amsgrad=True),
    "scaled": lambda: optimizers.LossScaleOptimizer(optimizers.SGD(0.1), initial_scale=2.0**126, dynamic_growth_steps=2),
    "averaged": lambda: optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3),
    "averaged at the end": lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
}


class Numbered(keras.utils.PyDataset):
    def __init__(self, sizes=(8, 8, 8, 6), weights=False, **more):
        super().__init__(**more)
        self.ends, self.weights = np.cumsum([0, *sizes]), weights

    def __len__(self):
        return len(self.ends) - 1

    def __getitem__(self, i):
        rows = slice(self.ends[i], self.ends[i + 1])
        return (X[rows], Y[rows], W[rows]) if self.weights else (X[rows], Y[rows])


class Uncounted(Numbered):
    """It says how many batches there are, and not by its length."""

    __len__ = None

    @property
    def num_batches(self):
        return len(self.ends) - 1


class Moving(Numbered):
    """It counts its calls: other rows in every pass, but for the first batch."""

    calls = 0

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        self.calls += 1
        return x * (1 + 0.01 * self.calls * (i > 0)), y


class Turned(Numbered):
    """It turns its rows around at the end of an epoch."""

    turns = 0

    def on_epoch_end(self):
        self.turns += 1

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return (x[::-1], y[::-1]) if self.turns % 2 else (x, y)


def _rows():
    return tf.data.Dataset.from_tensor_slices((X, Y))


def _stateful():
    state = {"pass": 0}

    def give():
        state["pass"] += 1
        for i in range(0, ROWS, 10):
            yield X[i : i + 10] * (1.0 if i == 0 else state["pass"]), Y[i : i + 10]

    spec = tf.TensorSpec((None, 6), tf.float32), tf.TensorSpec((None,), tf.int64)
    return tf.data.Dataset.from_generator(give, output_signature=spec)


def _frames():
    import pandas

    return dict(x=pandas.DataFrame(X), y=pandas.Series(Y), sample_weight=pandas.Series(W), batch_size=8)


def _polars():
    import polars

    return dict(x=polars.DataFrame(X), y=polars.Series(Y), batch_size=8)


def _loader():
    import torch

    rows = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return dict(x=torch.utils.data.DataLoader(rows, batch_size=8))


def _grain():
    import grain

    return dict(x=grain.MapDataset.source(list(zip(X, Y))).batch(8))


# Each kind makes the arguments of `fit` anew: a pipeline has a state.
DATA = {
    "arrays": lambda: dict(x=X, y=Y, batch_size=8),
    "tensors": lambda: dict(x=tf.constant(X), y=tf.constant(Y)),
    "float64": lambda: dict(x=X.astype("float64"), y=Y.astype("int32"), batch_size=7),
    "weights": lambda: dict(x=X, y=Y, sample_weight=W, batch_size=8),
    "classes": lambda: dict(x=X, y=Y, class_weight={0: 2.0, 2: 0.5}, batch_size=8),
    "variables": lambda: dict(x=keras.Variable(X), y=tf.Variable(Y), batch_size=8),
    "dataset": lambda: dict(x=_rows().batch(8)),
    "cached dataset": lambda: dict(x=_rows().cache().batch(8).map(lambda x, y: (x * 2, y)).prefetch(2)),
    "shuffled once": lambda: dict(x=_rows().shuffle(ROWS, seed=2, reshuffle_each_iteration=False).batch(8)),
    "without end": lambda: dict(x=_rows().batch(8).repeat(), steps_per_epoch=2),
    "dataset of weights": lambda: dict(x=tf.data.Dataset.from_tensor_slices((X, Y, W)).batch(8)),
    "dataset, classes": lambda: dict(x=_rows().batch(8), class_weight={1: 3.0}),
    "remainder dropped": lambda: dict(x=_rows().batch(8, drop_remainder=True)),
    "repeated": lambda: dict(x=_rows().batch(8).repeat(2)),
    "of unknown length": lambda: dict(x=_rows().filter(lambda x, y: y < 2).batch(8)),
    "uneven": lambda: dict(x=_rows().batch(8).concatenate(_rows().batch(5))),
    "stateful": lambda: dict(x=_stateful()),
    "numbered": lambda: dict(x=Numbered()),
    "numbered, weights": lambda: dict(x=Numbered(weights=True)),
    "numbered, uneven": lambda: dict(x=Numbered((4, 12, 9, 5))),
    "numbered, uncounted": lambda: dict(x=Uncounted()),
    "numbered, workers": lambda: dict(x=Numbered(workers=2)),
    "moving": lambda: dict(x=Moving()),
    "turned": lambda: dict(x=Turned()),
}

# What needs a library of its own, where that is installed.
LIBRARIES = {"pandas": _frames, "polars": _polars, "torch": _loader, "grain": _grain}


def _works(name) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


DATA |= {name: make for name, make in LIBRARIES.items() if _works(name)}


class Reload(keras.callbacks.Callback):
    """Sets the frozen part when training begins, as BackupAndRestore does."""

    def on_train_begin(self, logs=None):
        for layer in self.model._flatten_layers():
            if layer.name == "body" and layer.built:
                layer.kernel.assign(layer.kernel * 0.5)


class Halve(keras.callbacks.Callback):
    """Changes the frozen part and the rate in the middle."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            for layer in self.model._flatten_layers():
                if layer.name == "body":
                    layer.bias.assign(layer.bias + 0.25)


class Slow(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        rate = self.model.optimizer._learning_rate
        if isinstance(rate, keras.Variable):
            rate.assign(rate * 0.5)


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


class Note(keras.callbacks.Callback):
    """Looks at the model before its first step, and at each epoch."""

    def on_train_begin(self, logs=None):
        self.sizes = [len(self.model.variables)]

    def on_epoch_begin(self, epoch, logs=None):
        self.sizes.append(len(self.model.variables))

    def on_epoch_end(self, epoch, logs=None):
        logs["sizes"] = sum(self.sizes)


class Batches(keras.callbacks.Callback):
    """Notes the batches it is called for, and stops early."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            self.model.stop_training = True


CALLBACKS = {"none": list, "reload": lambda: [Reload()], "halve": lambda: [Halve()], "slow": lambda: [Slow()],
             "stop": lambda: [Stop()], "note": lambda: [Note()], "batches": lambda: [Batches()]}
VALIDATION = {
    "none": dict,
    "arrays": lambda: dict(validation_data=(X[:11], Y[:11])),
    "weights": lambda: dict(validation_data=(X[:11], Y[:11], W[:11]), validation_batch_size=4),
    "dataset": lambda: dict(validation_data=_rows().batch(7)),
    "shuffled": lambda: dict(validation_data=_rows().shuffle(ROWS, seed=3).batch(ROWS)),
    "numbered": lambda: dict(validation_data=Numbered((10, 20))),
    "some steps": lambda: dict(validation_data=_rows().batch(4), validation_steps=2),
    "now and then": lambda: dict(validation_data=(X[:11], Y[:11]), validation_freq=2),
}
TENS = dict(batch_size=10, validation_batch_size=10)
OPTIONS = {
    "none": {},
    "not shuffled": dict(shuffle=False),
    "by batch": dict(shuffle="batch"),
    "later": dict(initial_epoch=1),
    "steps": dict(steps_per_epoch=2),
    "split": dict(validation_split=0.3),
}
together = st.sampled_from([1, 1, 1, 2])


def train(fit, family, optimizer, frozen, data, validation, option, callbacks, together):
    keras.utils.set_random_seed(5)
    random.seed(5)
    model = FAMILIES[family]()
    if frozen and family not in ("unbuilt",):
        if not model.built:
            model(X[:1])
        model.get_layer("inner" if family == "nested" else "body").trainable = False
    model.compile(OPTIMIZERS[optimizer](), SPARSE, metrics=["accuracy"], steps_per_execution=together)
    given = {**DATA[data](), **VALIDATION[validation](), **OPTIONS[option]}
    if family == "stateful":  # each batch has ten rows
        given = {**given, **(TENS if "batch_size" in given else dict(x=_rows().batch(10)))}
    history = fit(model, epochs=3, verbose=0, callbacks=CALLBACKS[callbacks](), **given).history
    return history, [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def outcome(*args):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            return train(*args), [str(w.message) for w in said]
        except Exception as error:
            return error, [str(w.message) for w in said]


DRAWN = dict(
    family=st.sampled_from(sorted(FAMILIES)), optimizer=st.sampled_from(sorted(OPTIMIZERS)), frozen=st.sampled_from([True, True, False]),
    data=st.sampled_from(sorted(DATA)), validation=st.sampled_from(sorted(VALIDATION)), option=st.sampled_from(sorted(OPTIONS)),
    callbacks=st.sampled_from(sorted(CALLBACKS)), together=together)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
          suppress_health_check=list(HealthCheck))
@given(**DRAWN)
@pytest.mark.filterwarnings("ignore")
def test_as_keras(family, optimizer, frozen, data, validation, option, callbacks, together):
    drawn = family, optimizer, frozen, data, validation, option, callbacks, together
    keras_, _ = outcome(keras.Model.fit, *drawn)
    ours, said = outcome(tl.fit, *drawn)
    note(f"{drawn}: {said}")
    if isinstance(keras_, Exception):
        assert isinstance(ours, Exception), f"Keras says {keras_!r}"
        return
    if isinstance(ours, ValueError) and "Received: " in str(ours):
        return  # refused in words
    assert not isinstance(ours, Exception), repr(ours)
    assert list(ours[0]) == list(keras_[0])
    for name in keras_[0]:
        np.testing.assert_allclose(ours[0][name], keras_[0][name], rtol=2e-4, atol=2e-5, err_msg=name)
    for a, b in zip(ours[1], keras_[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
