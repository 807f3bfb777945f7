"""`tl.fit` against `Model.fit`: weights, optimizer state and history to the bit, over what people compile."""
import _thread
import collections
import importlib.util
import os
import signal
import threading
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from keras import layers
from keras import losses as L
from keras import optimizers as O

import transferlit as tl
from transferlit.keras_internals import draws_by_epoch, keras_version

rng = np.random.default_rng(0)
ROWS = 150
X = rng.normal(size=(ROWS, 12)).astype("float32")
Y = rng.integers(0, 3, ROWS)
TARGETS = rng.normal(size=(ROWS, 2)).astype("float32")
WEIGHTS = rng.random(ROWS).astype("float32")
SPARSE = L.SparseCategoricalCrossentropy(from_logits=True)


def network(optimizer="sgd", top=(), frozen=True, cls=keras.Model, act=None, below=(), **compile):
    inputs = keras.Input((12,))
    h = layers.Dense(8, "relu", name="hidden1", kernel_regularizer="l2")(inputs)
    h = layers.Dense(8, "relu", name="hidden2", activity_regularizer=act)(h)
    for layer in below:
        h = layer(h)
    h = layers.Dense(8, "relu", name="hidden3", kernel_regularizer="l2")(h)
    for layer in top:
        h = layer(h)
    model = cls(inputs, layers.Dense(3, name="logits", dtype="float32")(h))
    if frozen:
        tl.freeze(model, "hidden[12]")
    model.compile(optimizer, SPARSE, metrics=["accuracy"], **compile)
    return model


def two_outputs():
    inputs = keras.Input((12,))
    h = layers.Dense(8, "relu", name="hidden1", trainable=False)(inputs)
    model = keras.Model(inputs, {"a": layers.Dense(3, name="a")(h), "b": layers.Dense(2, name="b")(h)})
    model.compile("adam", {"a": SPARSE, "b": "mse"}, metrics={"a": "accuracy", "b": ["mae"]}, loss_weights={"a": 1.0, "b": 0.5})
    return model


def mixed():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return network("adam")
    finally:
        keras.config.set_dtype_policy("float32")


def by_pattern():
    rates = O.OptimizerMap(O.SGD(0.05)) if hasattr(O, "OptimizerMap") else pytest.skip("this Keras has no OptimizerMap")
    rates["logits/.*"] = O.Adam(0.01)
    return network(O.MultiOptimizer(rates))


class Adversarial(keras.Model):
    """Its step asks for gradients with respect to x and trains on another x."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = self.compute_loss(x, y, self(x, training=True))
        return super().train_step((x + 0.1 * tf.sign(tape.gradient(loss, x)), y))


class Own(keras.Model):
    """Its step uses x beside the prediction and logs something that is no metric."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            prediction = self(x, training=True)
            loss = self.compute_loss(x, y, prediction) + 0.1 * tf.reduce_mean(x)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        return {**self.compute_metrics(x, y, prediction), "norm": tf.linalg.global_norm(gradients)}


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.body, self.top = layers.Dense(8, "relu"), layers.Dense(3)

    def call(self, x, training=None):
        return self.top(self.body(x))


def subclassed():
    model = Subclassed()
    model.compile("adam", SPARSE, metrics=["accuracy"])
    return model


class Charge(layers.Layer):
    def call(self, x):
        self.add_loss(0.01 * keras.ops.sum(keras.ops.square(x)))
        return x


CASES = {
    "adamw": (lambda: network(O.AdamW(0.01, weight_decay=0.05)), {}),
    "schedule, momentum": (lambda: network(O.SGD(O.schedules.ExponentialDecay(0.1, 3, 0.9), momentum=0.9)), {}),
    "rates by pattern": (by_pattern, {}),
    "accumulation": (lambda: network(O.SGD(0.05, gradient_accumulation_steps=3)), {}),
    "clipping": (lambda: network(O.Adam(0.01, global_clipnorm=0.1)), {}),
    "moving average": (lambda: network(O.Adam(0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=4)), {}),
    "loss scale": (lambda: network(O.LossScaleOptimizer(O.Adam(0.01))), {}),
    "mixed precision": (mixed, {}),
    "dropout, batchnorm": (lambda: network("adam", top=(layers.BatchNormalization(), layers.Dropout(0.3))), {}),
    "nothing frozen": (lambda: network("adam", frozen=False, top=(layers.Dropout(0.3),)), {"batch_size": 30}),
    "activity regularizer below": (lambda: network(act="l2"), {}),
    "add_loss below": (lambda: network(below=(Charge(),)), {}),
    "two outputs": (two_outputs, {"y": {"a": Y, "b": TARGETS}, "sample_weight": WEIGHTS}),
    "class_weight": (lambda: network(weighted_metrics=["accuracy"]), {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}}),
    "class_weight, rows held out": (lambda: network(), {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}, "validation_split": 0.3}),
    "own step": (lambda: network(cls=Own), {}),
    "adversarial step": (lambda: network(cls=Adversarial), {}),
    "subclassed": (subclassed, {}),
    "steps_per_epoch": (lambda: network("adam"), {"steps_per_epoch": 2}),
    "validation": (lambda: network("adam"), {"validation_split": 0.3, "validation_freq": 2, "validation_batch_size": 16}),
    "pandas": (lambda: network("adam"), {"x": pd.DataFrame(X), "y": pd.Series(Y), "sample_weight": pd.Series(WEIGHTS)}),
    "float64, one batch": (lambda: network("adam"), {"x": X.astype("float64"), "batch_size": 1000}),
}


def trained(way, make, x=X, y=Y, batch_size=32, epochs=3, **more):
    keras.utils.set_random_seed(3)
    model = make()
    fit = (lambda *a, **k: tl.fit(model, *a, **k)) if way is tl else model.fit
    history = fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0, **more)
    state = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    return history.history, state


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_same_as_keras(case):
    make, more = CASES[case]
    (history, state), (ours, our_state) = (trained(way, make, shuffle=False, **more) for way in (keras, tl))
    assert ours == history
    for a, b in zip(our_state, state, strict=True):
        np.testing.assert_array_equal(a, b)


class InBatches(keras.utils.PyDataset):
    def __len__(self):
        return 10

    def __getitem__(self, i):
        rows = slice(15 * i, 15 * (i + 1))
        return X[rows], Y[rows]


@pytest.mark.parametrize("how", [dict(shuffle=True), dict(shuffle="batch"), dict(shuffle=True, steps_per_epoch=2),
                                 dict(x=InBatches(), y=None, batch_size=None, shuffle=True)], ids=["rows", "within batches", "few steps", "numbered batches"])
def test_each_epoch_takes_rows_in_the_order_of_keras(how):
    (history, state), (ours, our_state) = (trained(way, network, epochs=5, **how) for way in (keras, tl))
    assert ours == history
    for a, b in zip(our_state, state, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("first", [16, 22])  # rows of a batch at first; 22 is also what 32 leaves of the rows
def test_losses_of_outputs_are_averaged_as_keras_does_after_other_sizes(first):
    def twice(way):
        keras.utils.set_random_seed(3)
        model, data = two_outputs(), (X, {"a": Y, "b": TARGETS})
        fit = (lambda **k: tl.fit(model, *data, **k)) if way is tl else (lambda **k: model.fit(*data, **k))
        return [fit(batch_size=size, shuffle=False, verbose=0).history for size in (first, 32)]

    assert twice(tl) == twice(keras)


def one_output(out):
    inputs = keras.Input((12,), name="i")
    h = layers.Dense(6, "relu", name="body")(inputs)
    return keras.Model(inputs, out(layers.Dense(3, name="a")(h)))


def outputs_of(out, inputs=lambda i, j: i):
    i, j = keras.Input((12,), name="i"), keras.Input((2,), name="j")
    given = inputs(i, j)
    h = layers.Dense(6, "relu", name="body")(layers.Concatenate()([i, j]) if len(keras.tree.flatten(given)) == 2 else i)
    return keras.Model(given, out(layers.Dense(3, name="a")(h), layers.Dense(2, name="b")(h)))


def row_of_several():
    return keras.Sequential([keras.Input((12,)), layers.Dense(6, name="body"), layers.Reshape((2, 3)), layers.LSTM(3, return_state=True, name="a")])


def barred():
    return tl.stop_after(keras.Sequential([keras.Input((12,)), layers.Dense(6, name="body"), layers.Dense(3, name="a")]), "body")


Pair = collections.namedtuple("Pair", "i j")
Ordered = collections.OrderedDict
TWO = {"loss": [SPARSE, "mse"], "metrics": [["accuracy"], ["mae"]]}
BY_NAME = {"loss": {"p": SPARSE, "q": "mse"}, "metrics": {"p": "accuracy"}}
STRUCTURES = {  # how a model is made and compiled, and what is given to `fit`
    "tensor, labels in a list": (lambda: one_output(lambda a: a), {}, {"y": [Y]}),
    "list of one": (lambda: one_output(lambda a: [a]), {"metrics": ["accuracy"]}, {}),
    "list of one, all in lists": (lambda: one_output(lambda a: [a]), {"loss": [SPARSE], "weighted_metrics": [["accuracy"]]}, {"y": [Y], "sample_weight": [WEIGHTS]}),
    "list of one, weights": (lambda: one_output(lambda a: [a]), {"weighted_metrics": ["accuracy"]}, {"sample_weight": WEIGHTS}),
    "list of one, class_weight": (lambda: one_output(lambda a: [a]), {}, {"class_weight": {0: 2.0, 1: 0.5}}),
    "tuple of one, loss by name": (lambda: one_output(lambda a: (a,)), {"loss": {"a": SPARSE}}, {}),
    "dictionary of one": (lambda: one_output(lambda a: {"k": a}), {"loss": {"k": SPARSE}, "metrics": {"k": "accuracy"}}, {"y": {"k": Y}}),
    "list of a dictionary": (lambda: one_output(lambda a: [{"k": a}]), {}, {"y": {"k": Y}}),
    "scores by class": (lambda: one_output(lambda a: [a]), {"loss": "mse", "metrics": ["f1"]}, {"y": keras.utils.to_categorical(Y, 3)}),
    "list": (lambda: outputs_of(lambda a, b: [a, b]), TWO, {"y": [Y, TARGETS], "sample_weight": WEIGHTS}),
    "tuple": (lambda: outputs_of(lambda a, b: (a, b)), TWO, {"y": (Y, TARGETS), "sample_weight": (WEIGHTS, WEIGHTS)}),
    "dictionary": (lambda: outputs_of(lambda a, b: {"q": b, "p": a}), BY_NAME, {"y": {"p": Y, "q": TARGETS}}),
    "list by name": (lambda: outputs_of(lambda a, b: [b, a]), {"loss": {"a": SPARSE, "b": "mse"}}, {"y": {"a": Y, "b": TARGETS}}),
    "inputs in a list": (lambda: outputs_of(lambda a, b: [a], lambda i, j: [i, j]), {}, {"x": [X, TARGETS]}),
    "inputs in order": (lambda: outputs_of(lambda a, b: a, lambda i, j: Ordered(j=j, i=i)), {}, {"x": Ordered(j=TARGETS, i=X)}),
    "inputs in a named tuple": (lambda: outputs_of(lambda a, b: a, Pair), {}, {"x": Pair(X, TARGETS)}),
    "nested inputs": (lambda: outputs_of(lambda a, b: a, lambda i, j: {"u": [i], "v": (j,)}), {}, {"x": {"u": [X], "v": (TARGETS,)}}),
    "sequential with a barrier": (barred, {}, {}),
    "sequential with several outputs": (row_of_several, {"loss": ["mse", None, None]}, {"y": [keras.utils.to_categorical(Y, 3)] * 3}),
}


def structured(fit, case, frozen):
    make, settings, given_ = STRUCTURES[case]
    keras.utils.set_random_seed(3)
    model, settings = make(), {"loss": SPARSE, **settings}
    if settings.get("metrics") == ["f1"]:
        settings["metrics"] = [keras.metrics.F1Score(average=None)]
    if frozen:
        tl.freeze(model, "body")
    model.compile(O.SGD(0.1, momentum=0.9), **settings)
    given_ = {"x": X, "y": Y, **given_}
    held = tuple(keras.tree.map_structure(lambda a: a[100:], (given_["x"], given_["y"])))
    history = fit(model, **given_, validation_data=held, epochs=2, shuffle=False, verbose=0).history
    state = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    later = model.evaluate(given_["x"], given_["y"], verbose=0, return_dict=True), model.fit(**given_, shuffle=False, verbose=0).history
    return {"history": history, "state": state, "later": later}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("frozen", [False, True], ids=["all trains", "cached"])
@pytest.mark.parametrize("case", STRUCTURES)
def test_structures_as_in_keras(case, frozen):
    """Inputs, outputs, labels, weights, losses and metrics in any structure; `evaluate` and `Model.fit` stay right afterwards."""
    try:
        theirs = structured(keras.Model.fit, case, frozen)
    except ValueError as error:
        if keras_version() >= (3, 15):
            raise
        pytest.skip(f"Keras {keras.__version__} does not take it: {error}")
    ours = structured(tl.fit, case, frozen)
    assert keras.tree.map_structure(np.shape, ours) == keras.tree.map_structure(np.shape, theirs)
    for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_barrier_keeps_the_structure():
    for out in (lambda a: a, lambda a: [a], lambda a: {"k": a}):
        model = one_output(out)
        keras.tree.assert_same_structure(tl.stop_after(model, "body").output, model.output)
    assert isinstance(barred().output, keras.KerasTensor)
    several = row_of_several()
    assert len(tl.stop_after(several, "body")(X[:2])) == len(several(X[:2])) == 3


@pytest.mark.parametrize("beside", [False, True], ids=["labels inside", "labels beside"])
def test_features_validate_as_their_rows(beside):
    def kept(model, x, y):
        features = tl.precompute(model, x, None if beside else y, verbose=False)
        return (features, y) if beside else features

    histories = []
    for held in (kept, lambda model, x, y: (x, y)):
        keras.utils.set_random_seed(0)
        model = network()
        fit = tl.fit(model, X, Y, validation_data=held(model, X[:30], Y[:30]), epochs=2, shuffle=False, verbose=0)
        histories.append(fit.history)
    for name, known in histories[1].items():
        np.testing.assert_allclose(histories[0][name], known, rtol=1e-5)


def test_own_step_with_features_alone():
    model = network(cls=Own)
    features = tl.precompute(model, X, Y, verbose=False)
    with pytest.raises(ValueError, match="looks at x.*Received: Own"):
        tl.fit(model, cache=features, verbose=0)
    tl.fit(model, X, Y, cache=features, verbose=0)


def test_one_seed_one_result():
    (history, state), (again, same) = (trained(tl, lambda: network("adam", top=(layers.Dropout(0.3),))) for _ in range(2))
    assert history == again
    for a, b in zip(state, same, strict=True):
        np.testing.assert_array_equal(a, b)


KINDS = {"sgd": lambda: "sgd", "momentum": lambda: O.SGD(0.05, momentum=0.9, nesterov=True), "adam": lambda: "adam",
         "schedule": lambda: O.Adam(O.schedules.ExponentialDecay(0.05, 5, 0.7)), "accumulation": lambda: O.Adam(0.01, gradient_accumulation_steps=3),
         "moving average": lambda: O.SGD(0.05, use_ema=True, ema_overwrite_frequency=2), "clipped": lambda: O.RMSprop(0.01, clipnorm=0.1)}
ARGUMENTS = {
    "shuffle": st.sampled_from([False, True, "batch"]), "batch_size": st.sampled_from([7, 32, 50, ROWS, 1000]), "epochs": st.integers(2, 3),
    "initial_epoch": st.integers(0, 1), "steps_per_epoch": st.integers(1, 4), "validation_split": st.sampled_from([0.2, 0.5]),
    "validation_freq": st.integers(1, 2), "validation_batch_size": st.sampled_from([10, 64]), "validation_steps": st.just(1),
    "class_weight": st.just({0: 2.0, 1: 0.5}), "sample_weight": st.just(WEIGHTS), "callbacks": st.sampled_from(["early", "plateau", "batches"]),
}


def callback(name):
    C = keras.callbacks
    made = {"early": lambda: C.EarlyStopping("loss", patience=0, min_delta=0.5), "plateau": lambda: C.ReduceLROnPlateau("loss", patience=0, min_delta=9.0),
            "batches": lambda: C.LambdaCallback(on_train_batch_end=lambda batch, logs: None)}
    return [made[name]()]


@settings(max_examples=int(os.environ.get("TRANSFERLIT_EXAMPLES", 10)), deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
          suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(sorted(KINDS)), top=st.sampled_from(["", "dropout", "batchnorm"]), frozen=st.booleans(),
       given_=st.fixed_dictionaries({}, optional=ARGUMENTS))
@pytest.mark.filterwarnings("ignore")
def test_any_arguments(kind, top, frozen, given_):
    if "sample_weight" in given_:
        given_.pop("class_weight", None)  # Keras takes one of the two
    if kind == "schedule" and given_.get("callbacks") == "plateau":
        given_.pop("callbacks")  # a schedule's rate can't be set

    def make():
        extra = {"": (), "dropout": (layers.Dropout(0.3),), "batchnorm": (layers.BatchNormalization(),)}[top]
        return network(KINDS[kind](), top=extra, frozen=frozen, weighted_metrics=["accuracy"])

    (history, state), (ours, our_state) = (trained(way, make, **{**given_, "callbacks": callback(given_["callbacks"])} if "callbacks" in given_ else given_)
                                           for way in (keras, tl))
    assert ours == history
    for a, b in zip(our_state, state, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore")
def test_callbacks_of_epochs(tmp_path):
    C = keras.callbacks

    def run(way, folder):
        folder.mkdir()
        callbacks = [C.EarlyStopping("val_loss", patience=1, restore_best_weights=True), C.ReduceLROnPlateau("loss", patience=1, min_delta=1.0),
                     C.ModelCheckpoint(folder / "best.weights.h5", save_best_only=True, save_weights_only=True),
                     C.CSVLogger(folder / "log.csv")]
        if importlib.util.find_spec("tensorboard"):
            callbacks.append(C.TensorBoard(folder / "board"))
        return trained(way, lambda: network(O.SGD(0.5)), epochs=12, shuffle=False, validation_split=0.3, callbacks=callbacks)

    (history, state), (ours, our_state) = run(keras, tmp_path / "keras"), run(tl, tmp_path / "tl")
    assert ours == history and len(history["loss"]) < 12
    assert (tmp_path / "tl/log.csv").read_text() == (tmp_path / "keras/log.csv").read_text()
    assert (tmp_path / "tl/best.weights.h5").exists()
    for a, b in zip(our_state, state, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def ctrl_c():
    """What Ctrl-C does, also where the shell that began the tests told them to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield _thread.interrupt_main
    signal.signal(signal.SIGINT, before)


def test_interrupted_between_steps(ctrl_c):
    """Ctrl-C leaves whole steps behind, and the model trains on."""
    model = network("adam")
    tl.fit(model, X, Y, verbose=0)
    threading.Timer(0.5, ctrl_c).start()
    with pytest.raises(KeyboardInterrupt):
        tl.fit(model, X, Y, epochs=50_000, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    steps = int(model.optimizer.iterations)
    tl.fit(model, X, Y, verbose=0)
    assert int(model.optimizer.iterations) == steps + 5


def test_larger_than_memory_is_streamed(tmp_path, monkeypatch):
    """Features that would not fit are read in blocks, with the same result in order."""
    from transferlit.rows import memory

    whole = trained(tl, lambda: network("adam"), shuffle=False, cache=str(tmp_path))
    monkeypatch.setattr(memory, "free_memory", lambda: 2048)
    seen = []
    blocks = memory.Blocks
    monkeypatch.setattr(memory, "Blocks", lambda *a, **k: seen.append(1) or blocks(*a, **k))
    streamed = trained(tl, lambda: network("adam"), shuffle=False, cache=str(tmp_path))
    assert seen and streamed[0] == whole[0]
    for a, b in zip(streamed[1], whole[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore")
def test_a_steady_dataset_gives_what_arrays_give():
    steady = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
    assert trained(tl, network, x=steady, y=None, batch_size=None, shuffle=True)[0] == trained(tl, network, shuffle=False)[0]


SWEPT = {
    "adamw, batchnorm": lambda: network(O.AdamW(0.01, weight_decay=0.05), top=(layers.BatchNormalization(),)),
    "clipping, activity regularizer": lambda: network(O.SGD(0.01, momentum=0.9, clipnorm=0.1), top=(layers.Dense(8, activity_regularizer="l2"),)),
    "nothing frozen": lambda: network("adam", frozen=False),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", SWEPT)
def test_swept_together_as_one_by_one(case):
    """Stacked candidates end where each would alone, but for rounding; a callback keeps them apart."""

    def swept(**more):
        keras.utils.set_random_seed(3)
        rates = [1e-3, 1e-2, 3e-2]
        return tl.sweep(SWEPT[case](), X, Y, {"optimizer.learning_rate": rates}, epochs=3, validation_split=0.3, sample_weight=WEIGHTS, **more)

    together, alone = swept(), swept(callbacks=[keras.callbacks.Callback()])
    for a, b in zip(together.rows, alone.rows, strict=True):
        for name in alone.columns:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5)
        for v, w in zip(a["trained"].state, b["trained"].state, strict=True):
            np.testing.assert_allclose(v, w, rtol=1e-3, atol=1e-5)


def test_what_branches_is_swept_one_by_one():
    from transferlit import loop

    for make in (lambda: network(O.SGD(0.1, gradient_accumulation_steps=2)), lambda: network("sgd", top=(layers.Dropout(0.3),)),
                 lambda: network(O.LossScaleOptimizer(O.Adam())), lambda: network(cls=Own), lambda: network(O.Adam(use_ema=True))):
        model = make()
        model.optimizer.build(model.trainable_variables)
        assert not loop.stackable(model, model)


def test_another_seed_another_order():
    assert (_order(1) == _order(1)).all()
    assert (_order(1) == _order(2)).all() == draws_by_epoch()  # or the epoch decides, not the seed
    assert sorted(_order(2)) == list(range(ROWS))


def _order(seed):
    from transferlit.rows import Rows

    keras.utils.set_random_seed(seed)
    return next(Rows(tf.zeros([ROWS, 1])).stretches(True, 1))[1].numpy()


@pytest.fixture(scope="module")
def table():
    """A column of text, one of numbers, and a model with its preprocessing layers."""
    frame = pd.DataFrame({"city": ["Seoul", "Jeju", ""] * 8, "price": range(24), "liked": [0, 1, 2] * 8})
    inputs = {"city": keras.Input((), dtype="string", name="city"), "price": keras.Input((1,), name="price")}
    places = layers.StringLookup(vocabulary=["Seoul", "Jeju", ""], output_mode="one_hot")
    h = layers.Concatenate()([places(inputs["city"]), inputs["price"]])
    model = keras.Model(inputs, layers.Dense(3, name="logits")(h))
    model.compile("sgd", SPARSE)
    return model, frame


def test_columns_of_a_table_are_trained_on_as_their_arrays(table):
    model, frame = table
    start, lost = model.get_weights(), {}
    for name, columns in {"table": frame, "arrays": {n: frame[n].to_numpy() for n in frame}}.items():
        model.set_weights(start)
        x = {"city": columns["city"], "price": np.asarray(columns["price"], "float32")[:, None]}
        with pytest.warns(UserWarning, match="text"):
            lost[name] = tl.fit(model, x, frame["liked"].to_numpy(), shuffle=False, verbose=0).history["loss"]
    assert lost["table"] == lost["arrays"]


def test_words_as_labels_and_missing_texts_are_refused(table):
    model, frame = table
    x = {"city": frame["city"], "price": frame[["price"]].to_numpy("float32")}
    labels = frame["liked"].map({0: "bad", 1: "good", 2: "fair"})
    for y in (labels, labels.to_numpy(), list(labels), labels.to_numpy().astype("U")):
        with pytest.raises(ValueError, match="Labels must be numbers.*Categorical.*your_data"):
            tl.fit(model, x, y, verbose=0)
    features = tl.precompute(model, x, verbose=0)
    with pytest.raises(ValueError, match="Labels must be numbers"):
        tl.fit(model, y=labels, cache=features, verbose=0)
    x["city"] = frame["city"].replace("", None)
    with pytest.raises(ValueError, match="x must hold texts.*without one in 8 places"), pytest.warns(UserWarning):
        tl.fit(model, x, frame["liked"], verbose=0)
    with pytest.raises(ValueError, match="x must hold texts"):
        tl.precompute(model, x, verbose=0)
    with pytest.raises(ValueError, match="Labels must be numbers"):
        tl.fit(network(), X, Y, validation_data=(X, np.array(["a", "b", "c"])[Y]), verbose=0)


def test_a_class_weight_by_names_and_lists_of_rows_are_refused():
    """Keras would ignore the one, and take the other for many inputs."""
    with pytest.raises(ValueError, match="by class numbers.*'dog'"):
        tl.fit(network(), X, Y, class_weight={"dog": 2.0, "cat": 1.0}, verbose=0)
    for y in (list(Y), Y.tolist()):
        with pytest.raises(ValueError, match="Data must be arrays.*np.asarray"):
            tl.fit(network(), X, y, verbose=0)
    with pytest.raises(ValueError, match=f"Data must be arrays.*np.asarray.*Received: a list of {len(X)} arrays, one for each row"):
        tl.fit(network(), list(X), Y, verbose=0)


WORDS = np.array([" ".join(np.random.default_rng(i).choice(["cat", "dog", "fish", "sun", "moon"], 5)) for i in range(48)])


def reader_of_words():
    """The vocabulary and the embedding lie below the cut."""
    keras.utils.set_random_seed(0)
    vectorize = layers.TextVectorization(output_sequence_length=6)
    vectorize.adapt(WORDS)
    words = keras.Input((), dtype="string")
    h = layers.Embedding(20, 8, trainable=False, mask_zero=True)(vectorize(words))
    model = keras.Model(words, layers.Dense(3, "softmax")(layers.LSTM(4)(h)))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.mark.parametrize("kind", ["NumPy", "tensor", "pandas", "dataset"])
def test_text_below_the_cut_is_read_once(kind):
    """As `Model.fit` trains and validates, but it is no reason to leave the loop."""
    y = np.arange(48) % 3
    dataset = tf.data.Dataset.from_tensor_slices((WORDS, y)).batch(10)
    given = {"NumPy": WORDS, "tensor": tf.constant(WORDS), "pandas": pd.Series(WORDS), "dataset": dataset}[kind]
    x, more = (given, {}) if kind == "dataset" else (given, {"y": y, "batch_size": 10, "shuffle": False})
    held = dataset.take(3) if kind == "dataset" else (given[:30], y[:30])
    model, theirs = reader_of_words(), reader_of_words()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ours = tl.fit(model, x, epochs=3, verbose=0, validation_data=held, **more)
    history = theirs.fit(tf.constant(WORDS), y, batch_size=10, shuffle=False, epochs=3, verbose=0, validation_data=(tf.constant(WORDS[:30]), y[:30]))
    for name, values in history.history.items():
        np.testing.assert_allclose(ours.history[name], values, rtol=1e-4)
    for a, b in zip(model.variables, theirs.variables):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_text_that_goes_above_the_cut_is_left_to_keras():
    model = reader_of_words()
    model.layers[2].trainable = True
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match="which is slower: the data hold text"):
        tl.fit(model, WORDS, np.arange(48) % 3, epochs=1, verbose=0)


def test_text_is_validated_beside_features():
    y = np.arange(48) % 3
    model, other = reader_of_words(), reader_of_words()
    more = dict(epochs=2, verbose=0, shuffle=False, validation_data=(WORDS[:30], y[:30]))
    ours = tl.fit(model, cache=tl.precompute(model, WORDS, y, verbose=False), **more)
    assert ours.history == tl.fit(other, WORDS, y, **more).history


@pytest.mark.parametrize("kind", ["tensor", "SciPy"])
def test_sparse_rows_are_dense_ones_below_the_cut(kind):
    rng = np.random.default_rng(0)
    x, y = (rng.random((40, 12)) > 0.8).astype("float32"), np.arange(40) % 3
    sparse = tf.sparse.from_dense(x) if kind == "tensor" else pytest.importorskip("scipy.sparse").csr_matrix(x)

    def model():
        keras.utils.set_random_seed(0)
        rows = keras.Input((12,), sparse=True)
        made = keras.Model(rows, layers.Dense(3)(layers.Dense(8, "relu", trainable=False)(rows)))
        made.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
        return made

    one, other = model(), model()
    kept = tl.precompute(one, sparse, y, verbose=False)
    np.testing.assert_array_equal(kept.arrays[0], tl.precompute(other, x, y, verbose=False).arrays[0])
    with pytest.warns(UserWarning, match="cache=precompute"):
        theirs = tl.fit(other, sparse, y, epochs=2, shuffle=False, verbose=0)
    with pytest.warns(UserWarning, match=r"its batches are sparse.*precompute\(model, dataset\)"):
        tl.fit(model(), tf.data.Dataset.from_tensor_slices((tf.sparse.from_dense(x), y)).batch(8), verbose=0)
    np.testing.assert_allclose(tl.fit(one, cache=kept, epochs=2, shuffle=False, verbose=0).history["loss"], theirs.history["loss"], rtol=1e-4)


def test_ragged_rows_are_never_padded_unasked():
    """`Model.fit` takes them as they are; features of padded ones would be others."""
    x, y = tf.ragged.constant([[1] * (1 + i % 5) for i in range(40)]), np.arange(40) % 3
    rows = keras.Input((None,), dtype="int32", ragged=True)
    h = layers.Embedding(9, 4, trainable=False)(rows)
    h = layers.Lambda(lambda t: tf.reduce_mean(t, 1), output_shape=(4,))(h)
    model = keras.Model(rows, layers.Dense(3)(h))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for data in (x, y), (tf.data.Dataset.from_tensor_slices((x, y)).batch(8),):
        with pytest.raises(ValueError, match="Rows must be of one length.*RaggedTensor"):
            tl.precompute(model, *data, verbose=False)
    with pytest.raises(ValueError, match="Rows must be of one length"):
        tl.sweep(model, x, y, {"optimizer.learning_rate": [0.1]}, validation_split=0.2)
