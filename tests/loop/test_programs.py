"""Whole programs, run with `Model.fit` and with `tl.fit`: what they return must be equal, number by number."""
import gc
import importlib.util
import os
import sys
import threading
import warnings
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import transferlit as tl
from transferlit.loop import running

rng = np.random.default_rng(0)
ROWS = 40
X = rng.normal(size=(ROWS, 6)).astype("float32")
Y = rng.integers(0, 3, ROWS)
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
QUIET = dict(batch_size=16, shuffle=False, verbose=0)
PROGRAMS = {}


def program(function):
    PROGRAMS[function.__name__] = function
    return function


def network(cls=keras.Model, below=(), frozen="body", **compile):
    inputs = h = keras.Input((6,))
    for layer in (layers.Dense(8, "relu", name="body"), *below, layers.Dense(7, "tanh", name="mid")):
        h = layer(h)
    model = cls(inputs, layers.Dense(3, name="head")(h))
    if frozen:
        model.get_layer(frozen).trainable = False
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), SPARSE, metrics=["accuracy"], **compile)
    return model


def state(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def dataset(size=16, rows=slice(None)):
    return tf.data.Dataset.from_tensor_slices((X[rows], Y[rows])).batch(size)


class Sizes(keras.callbacks.Callback):
    """Notes how many variables the model has as each epoch begins."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(len(self.model.variables))


class Examined(keras.Model):
    """Only its test step is its own, and looks at x."""

    def test_step(self, data):
        x, *_ = data
        return {**super().test_step(data), "sum": ops.sum(x)}


class Told(keras.Model):
    """Its step reports numbers of its own under the names of the metrics."""

    def train_step(self, data):
        x, y = data
        super().train_step(data)
        return {"loss": 3.0, "accuracy": ops.mean(x)}


class Remembers(keras.Model):
    """Its step sets an attribute of the model."""

    steps_traced = 0

    def train_step(self, data):
        self.steps_traced = 1
        return super().train_step(data)


class Reports(keras.Model):
    def evaluate(self, *args, **more):
        return {**super().evaluate(*args, **more), "own": 1.0}


class Counts(keras.Model):
    """Its `fit` counts its calls and keeps the history."""

    calls = 0

    def fit(self, x, y=None, **more):
        self.calls += 1
        self.last = super().fit(x, y, **more)
        return self.last


class InTwoStages(keras.Model):
    """Its `fit` trains all, then freezes a layer and trains the rest."""

    def fit(self, x, y=None, epochs=1, **more):
        super().fit(x, y, epochs=1, **more)
        self.get_layer("body").trainable = False
        self.compile("sgd", SPARSE, metrics=["accuracy"])
        return super().fit(x, y, epochs=epochs, **more)


class Seen(layers.Layer):
    """Keeps a metric of what passes."""

    def __init__(self, **more):
        super().__init__(**more)
        self.mean = keras.metrics.Mean(name="seen")

    def call(self, x):
        self.mean.update_state(ops.mean(x))
        return x


@program
def a_metric_in_a_frozen_layer(fit):
    model = network(below=[Seen(trainable=False)])
    return fit(model, X, Y, epochs=2, **QUIET).history, float(model.layers[2].mean.result())


@program
def a_test_step_that_looks_at_x(fit):
    return fit(network(Examined), X, Y, epochs=2, validation_split=0.3, **QUIET).history


@program
def a_test_step_on_the_dataset_of_training(fit):
    both = dataset()
    return fit(network(Examined), both, epochs=4, validation_data=both, verbose=0).history


@program
def a_step_that_reports_under_the_names_of_metrics(fit):
    return fit(network(Told), X, Y, epochs=2, validation_split=0.3, **QUIET).history


@program
def a_step_that_sets_an_attribute(fit):
    model = network(Remembers)
    return fit(model, X, Y, epochs=2, **QUIET).history, model.steps_traced


class Largest(keras.metrics.Metric):
    """It gives its own variable, or the tensor in it."""

    def __init__(self, bare, name="largest"):
        super().__init__(name=name)
        self.bare, self.most = bare, self.add_weight(name="most", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.most.assign(ops.maximum(self.most, ops.max(y_pred)))

    def result(self):
        return self.most.value if self.bare else self.most


@program
def metrics_that_give_their_own_variables(fit):
    model, told = network(), []
    model.compile("sgd", SPARSE, metrics=[Largest(False), Largest(True, "bare")])
    tell = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: told.append(dict(logs)))
    return fit(model, X, Y, epochs=3, validation_data=(3 * X, Y), callbacks=[tell], **QUIET).history, told


@program
def variables_as_data(fit):
    model = network()
    return fit(model, keras.Variable(X), tf.Variable(Y), epochs=2, **QUIET).history, state(model)


@program
def a_dataset_that_is_empty_in_its_second_pass(fit):
    rows = iter(list(zip(X, Y)))
    spec = tf.TensorSpec((6,)), tf.TensorSpec((), tf.int64)
    data = tf.data.Dataset.from_generator(lambda: rows, output_signature=spec).batch(16)
    model = network()
    return fit(model, data, epochs=3, verbose=0).history, state(model)


@program
def a_dataset_without_rows(fit):
    model = network()
    return fit(model, dataset(rows=slice(0)), epochs=3, verbose=0).history, state(model)


class Crowded(layers.Layer):
    """Halves what comes in a large batch."""

    def call(self, x):
        return ops.where(tf.shape(x)[0] > 3000, x / 2, x)


@program
def large_batches_of_a_dataset(fit):
    model = network(below=[Crowded()], steps_per_execution=2)
    rows = tf.data.Dataset.from_tensor_slices((np.tile(X, (80, 1)) + np.arange(3200, dtype="float32")[:, None] / 3200, np.tile(Y, 80)))
    both = rows.batch(3200).concatenate(rows.batch(800))
    return fit(model, both.repeat(), epochs=3, steps_per_epoch=4, verbose=0).history, state(model)


class Shrinks(keras.utils.PyDataset):
    """It has fewer batches from its second pass on."""

    count = 3

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        rows = slice(10 * i, 10 * i + 10)
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.count = 2


@program
def a_dataset_that_becomes_shorter(fit):
    model = network()
    return fit(model, Shrinks(), epochs=4, shuffle=False, verbose=0).history, state(model)


@program
def another_validation_set_in_the_second_fit(fit):
    model = network(Reports)
    held = slice(20), slice(20, None)
    return [fit(model, X, Y, validation_data=(X[part], Y[part]), **QUIET).history for part in held]


@program
def a_model_that_callbacks_see_before_it_is_built(fit):
    model = keras.Sequential([layers.Dense(4), layers.Dense(3)])
    model.compile("sgd", SPARSE)
    first, seen = [], Sizes()
    early = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: first.append(len(model.variables)))
    return fit(model, X, Y, epochs=2, callbacks=[early, seen], **QUIET).history, first, seen.seen, state(model)


@program
def an_unbuilt_model_with_a_frozen_part(fit):
    model = keras.Sequential([layers.Dense(4, trainable=False), layers.Dense(3)])
    model.compile("sgd", SPARSE)
    return fit(model, dataset(), epochs=3, validation_data=(X, Y), verbose=0).history, state(model)


@program
def frozen_and_thawed_between_two_fits(fit):
    model = network(frozen=None)
    fit(model, X, Y, **QUIET)
    tl.freeze(model, "body")
    tl.thaw(model, "body")
    return fit(model, X, Y, **QUIET).history, state(model)


@program
def more_inputs_than_a_sequential_model_has(fit):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, trainable=False), layers.Dense(3)])
    model.compile("sgd", SPARSE)
    return fit(model, [X, X * 2], Y, **QUIET).history, state(model)


class Threefold(keras.Model):
    def __call__(self, *args, **more):
        return super().__call__(*args, **more) * 3


@program
def a_model_called_in_its_own_way(fit):
    model = network(Threefold)
    return fit(model, X, Y, epochs=2, validation_split=0.3, **QUIET).history, state(model)


class Guarded(keras.Model):
    """Refuses text, and is called as any other model."""

    def __call__(self, *args, **more):
        if isinstance(args[0], str):
            raise ValueError("text")
        return super().__call__(*args, **more)


@program
def a_model_that_looks_at_what_it_is_called_with(fit):
    model = network(Guarded)
    history = fit(model, X, Y, epochs=2, validation_split=0.3, **QUIET).history
    assert tl.split(model).lower.weights
    return history, state(model)


@program
def a_half_frozen_model_inside_called_in_its_own_way(fit):
    inputs = keras.Input((6,))
    inner = Threefold(inputs, layers.Dense(5)(layers.Dense(4, trainable=False)(inputs)))
    outer = keras.Input((6,))
    model = keras.Model(outer, layers.Dense(3)(inner(outer)))
    model.compile("sgd", SPARSE)
    return fit(model, X, Y, epochs=2, **QUIET).history, state(model)


class Charged(layers.Layer):
    """Adds its weight to the loss, whatever passes."""

    def build(self, shape):
        self.weight = self.add_weight((), "ones")

    def call(self, x):
        self.add_loss(self.weight * 0.1)
        return x * self.weight


@program
def a_frozen_weight_in_the_loss(fit):
    model = network(below=[Charged(trainable=False)])
    return fit(model, X, Y, epochs=2, validation_split=0.3, **QUIET).history, state(model)


class Resets(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            self.model.reset_metrics()


@program
def metrics_reset_after_the_last_batch(fit):
    return fit(network(), X, Y, epochs=2, callbacks=[Resets()], **QUIET).history


def uncounted():
    return dataset(10).filter(lambda x, y: True)


@program
def a_metric_in_a_layer_and_data_of_unknown_length(fit):
    model = network(below=[Seen()])
    return fit(model, uncounted(), epochs=3, validation_data=uncounted(), verbose=0).history, state(model)


@program
def sequences_and_data_of_unknown_length(fit):
    model = keras.Sequential([keras.Input((None, 1)), layers.Conv1D(4, 3, trainable=False), layers.GlobalMaxPooling1D()])
    model.add(layers.Dense(3))
    model.compile("adam", SPARSE)
    rows = tf.data.Dataset.from_tensor_slices((X[..., None], Y)).padded_batch(10, ([None, 1], []))
    rows = rows.filter(lambda x, y: True)
    return fit(model, rows, epochs=3, verbose=0).history, state(model)


class Weighs(keras.Model):
    def compute_loss(self, *args, **more):
        return 2 * super().compute_loss(*args, **more)


class Halves(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        body = self.model.get_layer("body")
        body.kernel.assign(body.kernel * 0.5)


@program
def epochs_that_begin_in_the_middle_of_the_rows(fit):
    made = []
    for cls, callbacks in (Weighs, []), (keras.Model, [Halves()]):
        model = network(cls)
        made.append(fit(model, X, Y, epochs=3, steps_per_epoch=2, callbacks=callbacks, **QUIET).history)
        made.append(state(model))
    return made


class Freezes(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.model.get_layer("mid").trainable = False


@program
def frozen_as_training_begins(fit):
    model = network()
    return fit(model, X, Y, epochs=2, validation_split=0.3, callbacks=[Freezes()], **QUIET).history, state(model)


class Halts(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


@program
def stopped_as_an_epoch_begins(fit):
    model = network()
    return fit(model, X, Y, epochs=4, callbacks=[Halts()], **QUIET).history, state(model)


@program
def a_fit_of_its_own(fit):
    model = network(Counts)
    history = model.fit(X, Y, epochs=2, **QUIET) if fit is keras.Model.fit else fit(model, X, Y, epochs=2, **QUIET)
    return history.history, history.model is model, model.last is history, model.calls, state(model)


class Prepared(keras.Model):
    """Its `fit` maps a preprocessor over the rows, as that of a KerasHub task does."""

    def fit(self, x, y=None, batch_size=32, shuffle=True, **more):
        rows = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
        return super().fit(rows.map(lambda x, y: (x / 2 - 1, y)).prefetch(2), **more)


@program
def a_fit_with_a_preprocessor(fit):
    model = network(Prepared)
    more = dict(epochs=4, validation_data=(X, Y), **QUIET)
    history = model.fit(X, Y, **more) if fit is keras.Model.fit else fit(model, X, Y, **more)
    return history.history, state(model)


@program
def a_fit_in_two_stages(fit):
    model = network(InTwoStages, frozen=None)
    history = model.fit(X, Y, epochs=2, **QUIET) if fit is keras.Model.fit else fit(model, X, Y, epochs=2, **QUIET)
    return history.history, state(model)


class Filled(layers.Layer):
    """Learns what to fill in for a missing number."""

    def build(self, shape):
        self.value = self.add_weight((shape[-1],), "zeros")

    def call(self, x):
        return ops.where(ops.isnan(x), self.value, ops.nan_to_num(x))


class PassedOn(layers.Layer):
    """Frozen, and what is missing stays so."""

    def build(self, shape):
        self.scale = self.add_weight((shape[-1],), "ones", trainable=False)

    def call(self, x):
        return x * self.scale


HOLES = np.where(np.arange(6) == np.arange(ROWS)[:, None] % 9, np.nan, X)


def above_holes(fit, data, **more):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(3)(Filled()(PassedOn(trainable=False)(inputs))))
    model.compile("sgd", SPARSE)
    return fit(model, *data, epochs=3, verbose=0, **more).history, state(model)


@program
def missing_numbers_that_a_layer_fills(fit):
    held = dict(validation_split=0.3, batch_size=16)
    stream = tf.data.Dataset.from_tensor_slices((HOLES, Y)).batch(16)
    return above_holes(fit, (HOLES, Y), **held), above_holes(fit, [stream], validation_data=(HOLES, Y))


def squares_of_known(y, made):
    known = ops.logical_not(ops.isnan(y))
    return ops.mean(ops.where(known, ops.square(ops.where(known, y, 0) - made), 0), -1)


class Lenient(keras.losses.SparseCategoricalCrossentropy):
    """Takes a label that is no class for the first one."""

    def call(self, y, made):
        return super().call(ops.where(y == y, y, 0), made)


@program
def missing_labels_that_a_loss_leaves_out(fit):
    made = []
    for loss, y in (squares_of_known, HOLES[:, :3]), (Lenient(True), np.where(Y == 1, np.nan, Y)):
        model = network()
        model.compile("adam", loss)
        made.append((fit(model, X, y, epochs=2, validation_split=0.3, **QUIET).history, state(model)))
    return made


class Graphs(keras.utils.PyDataset):
    """Graphs joined to one a batch: more nodes than graphs, and in one batch as many."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        sizes = [(3, 2), (1, 1), (2, 4), (5, 1)][i]
        nodes = np.repeat([0, 1], sizes)
        return {"nodes": X[10 * i : 10 * i + len(nodes)], "graph": nodes}, Y[2 * i : 2 * i + 2], np.array([1.0, 0.5 + i], "float32")


class Sums(layers.Layer):
    """The sum of the nodes of each graph."""

    def call(self, nodes, graph):
        return ops.segment_sum(nodes, graph, 2)


def of_graphs():
    nodes, graph = keras.Input((6,), name="nodes"), keras.Input((), dtype="int32", name="graph")
    h = layers.Dense(5, "tanh", name="body", trainable=False)(nodes)
    model = keras.Model({"nodes": nodes, "graph": graph}, layers.Dense(3)(Sums()(layers.Dense(4)(h), graph)))
    model.compile(keras.optimizers.Adam(0.01), SPARSE, metrics=["accuracy"])
    return model


@program
def batches_whose_arrays_differ_in_length(fit):
    model = of_graphs()
    return fit(model, Graphs(), epochs=4, validation_data=Graphs(), verbose=0).history, state(model)


@program
def batches_whose_arrays_differ_in_length_in_one_epoch(fit):
    model = of_graphs()
    return fit(model, Graphs(), verbose=0).history, fit(model, Graphs(), steps_per_epoch=2, epochs=3, shuffle=False, verbose=0).history, state(model)


def unmeasured(cls):
    whole = network()
    model = cls(whole.inputs, whole.outputs)
    model.compile("sgd", SPARSE)
    return model


class Calls(keras.callbacks.Callback):
    """Notes for which batches it is called, and with what."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(batch)

    def on_train_batch_end(self, batch, logs=None):
        self.seen += [batch, logs["loss"]]


@program
def several_steps_a_call_where_rows_do_not_lie_together(fit):
    model, seen = of_graphs(), Calls()
    model.compile("sgd", SPARSE, steps_per_execution=3)
    inputs = keras.Input((None, 6))
    wide = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.Dense(4, trainable=False)(inputs))))
    wide.compile("sgd", SPARSE, steps_per_execution=2)
    of_widths = tf.data.Dataset.from_generator(
        lambda: ((np.ones((4, n, 6)) * n, np.arange(4) % 3) for n in (2, 3, 3, 3, 5)),
        output_signature=(tf.TensorSpec((None, None, 6)), tf.TensorSpec((None,), tf.int64)))
    made = fit(model, Graphs(), epochs=2, callbacks=[seen], verbose=0).history, fit(wide, of_widths, epochs=2, callbacks=[seen], verbose=0).history
    return made, seen.seen, state(model), state(wide)


class Halved(keras.Model):
    """Its step is given some rows without labels, and fewer or more with them."""

    def train_step(self, data):
        unknown, (x, y) = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True)) + tf.reduce_mean(self(unknown, training=True) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss, "rows": tf.shape(unknown)[0]}

    def test_step(self, data):
        return {"loss": self.compute_loss(*data, self(data[0]))}


@program
def rows_without_labels_beside_others(fit):
    made = []
    for size in 3, 14:
        model = unmeasured(Halved)
        pairs = tf.data.Dataset.zip((tf.data.Dataset.from_tensor_slices(X).batch(size), dataset(10)))
        made.append((fit(model, pairs, epochs=3, validation_data=dataset(), verbose=0).history, state(model)))
    return made


class PerRow(keras.Model):
    """It reports a number for each row of the batch."""

    def train_step(self, data):
        made = super().train_step(data)
        return {**made, "rows": tf.reduce_sum(self(data[0]), -1), "some": tf.boolean_mask(data[0], data[0] > 0)[:3]}


@program
def a_step_that_reports_on_each_row(fit):
    return [fit(network(PerRow), X, Y, epochs=2, **{**QUIET, "batch_size": size}).history for size in (16, 20)]


class Twins(keras.Model):
    """Its step is given two pictures of each row in one array."""

    def train_step(self, data):
        both, *_ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(both[0], training=True) - self(both[1], training=True)) ** 2) + 1.0
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


@program
def a_step_that_takes_its_x_apart(fit):
    pairs = tf.data.Dataset.from_tensor_slices((X.reshape(4, 2, 5, 6),))
    of_dataset, of_arrays = unmeasured(Twins), unmeasured(Twins)
    made = fit(of_dataset, pairs, epochs=3, verbose=0).history, fit(of_arrays, X.reshape(8, 5, 6), epochs=2, shuffle=False, batch_size=2, verbose=0).history
    return made, state(of_dataset), state(of_arrays)


def outcome(fit, function):
    keras.utils.set_random_seed(5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        return function(fit), " ".join(str(w.message) for w in said)


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_with_keras(name):
    (theirs, _), (ours, said) = (outcome(fit, PROGRAMS[name]) for fit in (keras.Model.fit, tl.fit))
    assert "This trains with `Model.fit`" not in said
    keras.tree.assert_same_structure(ours, theirs)
    for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_frozen_weights_changed_between_batches_are_spoken_of():
    class Nudge(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            bias = self.model.get_layer("body").bias
            bias.assign(bias + 0.1)

    with pytest.warns(UserWarning, match="between two batches"):
        tl.fit(network(), X, Y, epochs=2, callbacks=[Nudge()], **QUIET)


def test_a_fit_that_never_comes_to_keras_is_spoken_of():
    class Alone(keras.Model):
        def fit(self, x, y=None, **more):
            self.train_on_batch(x, y)
            return "done"

    with pytest.warns(UserWarning, match="in its own way"):
        assert tl.fit(network(Alone), X, Y) == "done"


def test_features_beside_a_fit_of_its_own():
    model = network(Counts)
    with pytest.raises(ValueError, match="a `fit` of its own.*Received: "):
        tl.fit(model, cache=tl.precompute(model, X, Y, verbose=False))
    assert model.calls == 0


@pytest.mark.skipif(not importlib.util.find_spec("keras_hub"), reason="needs KerasHub")
@pytest.mark.filterwarnings("ignore")
def test_tasks_of_keras_hub_are_cached():
    """Through their own `fit`, which makes a dataset of the rows."""
    import keras_hub

    tokens = rng.integers(0, 20, (ROWS, 7))
    words = {"token_ids": tokens, "segment_ids": tokens * 0, "padding_mask": np.ones_like(tokens)}

    def task():
        sizes = dict(num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16, max_sequence_length=7)
        body = keras_hub.models.BertBackbone(vocabulary_size=20, **sizes)
        body.trainable = False
        model = keras_hub.models.BertTextClassifier(body, num_classes=3, preprocessor=None)
        model.compile("adam", SPARSE, metrics=["accuracy"])
        return model

    results = []
    for fit in (lambda model, *args, **more: model.fit(*args, **more)), tl.fit:
        keras.utils.set_random_seed(5)
        model = task()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            history = fit(model, words, Y, epochs=4, batch_size=16, validation_split=0.3, verbose=0).history
        assert not [w for w in said if "This trains with" in str(w.message)]
        results.append((history, state(model)))
    for a, b in zip(*map(keras.tree.flatten, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_labels_of_a_tables_own_type():
    """Keras refuses numbers that may be missing; here they are numbers as long as none is."""
    pandas = pytest.importorskip("pandas")
    own = pandas.Series(Y, dtype="Int64")
    results = [tl.fit(network(), X, y, **QUIET).history for y in (Y, own) if not keras.utils.set_random_seed(5)]
    assert results[0] == results[1]


def test_thawed_without_compiling_again():
    """The optimizer does not know the variables; that is said before anything runs."""
    model = network()
    tl.fit(model, X, Y, **QUIET)
    model.get_layer("body").trainable = True
    with pytest.raises(ValueError, match="must know what trains.*Received: body/kernel"):
        tl.fit(model, X, Y, **QUIET)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files by /proc")
def test_fits_leave_nothing_behind():
    def once():
        model = network()
        tl.fit(model, X, Y, epochs=2, validation_data=dataset(), **QUIET)
        return weakref.ref(model)

    once()
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    models = [once() for _ in range(8)]
    gc.collect()
    assert not [model for model in models if model() is not None]
    after = len(os.listdir("/proc/self/fd")), threading.active_count()
    assert all(now <= was for now, was in zip(after, before))


def test_missing_numbers_of_which_a_model_makes_nothing():
    for given in dict(x=HOLES, y=Y), dict(x=X, y=Y, validation_data=(HOLES, Y)):
        with pytest.raises(ValueError, match="or let a layer fill them.*Received: x with NaN in 28 of 40"):
            tl.fit(network(), **given, **QUIET)


def test_a_step_of_its_own_is_traced_for_the_first_epoch_only():
    traced = []

    class Traced(keras.Model):
        def train_step(self, data):
            traced.append(len(self.optimizer.variables))
            return super().train_step(data)

    model = network(Traced)
    tl.fit(model, X[:32], Y[:32], **QUIET)
    first = list(traced)
    tl.fit(model, X[:32], Y[:32], epochs=3, **QUIET)
    assert traced == first


class Hooked(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass


def python_of(run) -> int:
    "Calls of Python functions that a run takes."
    calls = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: calls.append(0) if event == "call" else None)
    try:
        run()
    finally:
        sys.setprofile(before)
    return len(calls)


@pytest.mark.filterwarnings("ignore:Callbacks that want every batch")
@pytest.mark.parametrize("frozen", ["body", None])
@pytest.mark.parametrize("arrays", [True, False])
def test_a_step_between_two_callbacks_takes_no_more_python_than_one_of_keras(frozen, arrays):
    model, rows = network(frozen=frozen), dict(x=X, y=Y, batch_size=2) if arrays else dict(x=dataset(2))
    taken = {}
    for fit in keras.Model.fit, tl.fit:
        fit(model, **rows, verbose=0)
        short, long = (python_of(lambda: fit(model, **rows, epochs=n, callbacks=[Hooked()], verbose=0)) for n in (3, 6))
        taken[fit] = long - short
    assert taken[tl.fit] <= taken[keras.Model.fit]


class Paused:
    "A program whose second call waits for a second, beside a clock that knows of it."

    def __init__(self):
        self.rate, self.ready, self.calls, self.now = None, False, [], 0.0

    def perf_counter(self) -> float:
        return self.now

    def __call__(self, rows, order, start: int, stop: int) -> dict:
        self.now += 1.0 if len(self.calls) == 1 else 1e-3 + 1e-5 * (stop - start)
        self.calls.append(stop - start)
        return {}


def test_a_pause_does_not_make_calls_small_for_good(monkeypatch):
    program = Paused()
    monkeypatch.setattr(running, "time", program)
    for _ in range(5):
        step = 0
        while step < 2_000:
            count = running._pace(program, 2_000 - step, None)
            running._call(program, None, None, step, step + count)
            step += count
    assert program.calls[1] == 16 and program.calls[-1] == 2_000
