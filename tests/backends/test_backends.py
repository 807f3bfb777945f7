"""Keras' other backends: nothing imports TensorFlow, and training is Keras' own to the bit or nearly so.

On TensorFlow only the first tests run; `make test-jax` runs all of them in an environment without it.
"""
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest

import transferlit as tl

ROOT = Path(__file__).parents[2]
ELSEWHERE = keras.backend.backend() in ("jax", "torch")
# Keras' NumPy backend, in which the first tests' processes run, computes some things with JAX.
with_jax = pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed: make test-jax")
elsewhere = pytest.mark.skipif(not ELSEWHERE, reason="for JAX and PyTorch: make test-jax")
L = keras.layers

REFUSING = """
import sys
sys.modules['tensorflow'] = None  # importing it raises, and asking for it (as PyTorch does) finds nothing
"""


def run(program: str, backend: str, *arguments) -> str:
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], env=environment,
                          capture_output=True, text=True, timeout=600)
    assert not done.returncode, done.stderr[-3000:]
    return done.stdout


@with_jax
def test_importing_everything_imports_no_tensorflow():
    program = REFUSING + """
from importlib import import_module
from pathlib import Path
import transferlit
home = Path(transferlit.__file__).parent
for path in home.rglob('*.py'):
    name = '.'.join(path.relative_to(home.parent).with_suffix('').parts).removesuffix('.__init__')
    if '.tf1' not in name and name not in ('transferlit.revival', 'transferlit._modidx'):
        import_module(name)
assert sys.modules['tensorflow'] is None
"""
    run(program, "numpy")


def test_kinds_of_tensorflow_are_known_by_their_names():
    tf = pytest.importorskip("tensorflow")
    from transferlit import backends

    ragged = tf.ragged.constant([[1], [2, 3]])
    assert backends.is_tensorflows(ragged, "__internal__.CompositeTensor")
    assert backends.tf.__internal__ is tf.__internal__
    assert not backends.is_tensorflows(np.ones(2), "__internal__.CompositeTensor", "Tensor")


@with_jax
def test_what_needs_tensorflow_says_so():
    program = REFUSING + """
from transferlit import *
import transferlit
assert transferlit.restore is restore and not isinstance(restore, Revived)
try:
    revive('a.meta')
except ImportError as error:
    print(error)
"""
    assert "pip install tensorflow" in run(program, "numpy")


@with_jax
def test_a_checkpoint_of_another_backend_is_restored(tmp_path):
    make = """
import sys, keras, numpy as np, transferlit as tl
keras.utils.set_random_seed(3)
L = keras.layers
model = keras.Sequential([keras.Input((8, 8, 2)), L.Conv2D(4, 3, name='c'), L.BatchNormalization(name='b'),
                          L.Flatten(), L.Dense(3, name='d')])
x = np.random.default_rng(0).normal(size=(5, 8, 8, 2)).astype('float32')
"""
    path, told = tmp_path / "m.safetensors", tmp_path / "y.npy"
    run(make + "tl.save(model, sys.argv[1]); np.save(sys.argv[2], np.asarray(model(x)))", "numpy", path, told)
    namespace = {}
    exec(make.replace("set_random_seed(3)", "set_random_seed(4)"), namespace)
    model, x = namespace["model"], namespace["x"]
    tl.restore(model, path)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), np.load(told), atol=1e-5)


# What follows is for JAX and PyTorch.

ROWS = 103
rng = np.random.default_rng(0)
X = rng.normal(size=(ROWS, 12)).astype("float32")
Y = rng.integers(0, 3, ROWS)


def network(*top, frozen=True, optimizer="adam", cls=keras.Model, **compile):
    keras.utils.set_random_seed(0)
    enters = keras.Input((12,))
    h = L.Dense(8, "relu", name="low")(enters)
    for layer in top:
        h = layer(h)
    model = cls(enters, L.Dense(3, name="out", kernel_regularizer="l2")(h))
    if frozen:
        tl.freeze(model, "low")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], **compile)
    return model


class LooksAtX(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        known = super().compute_loss(x, y, y_pred, sample_weight, training)
        return known + 0.1 * keras.ops.mean(keras.ops.square(x))


def trained(fit, make, **how):
    model = make()
    keras.utils.set_random_seed(1)
    history = fit(model, X, Y, epochs=2, batch_size=16, verbose=0, **how).history
    return model, history


def by_keras(model, *data, **how):
    return model.fit(*data, **how)


def random_network():
    return network(L.Dropout(0.4))


KINDS = {
    "plain": (lambda: network(), {}),
    "all trains": (lambda: network(frozen=False), {}),
    "random": (random_network, {}),
    "statistics": (lambda: network(L.BatchNormalization()), {}),
    "held out": (lambda: network(), {"validation_split": 0.3}),
    "weights by class": (lambda: network(), {"class_weight": {0: 3.0}}),
    "some steps": (lambda: network(optimizer="sgd"), {"steps_per_epoch": 3}),
    "accumulated": (lambda: network(optimizer=keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)), {}),
    "looks at x": (lambda: network(cls=LooksAtX), {}),
}


@elsewhere
@pytest.mark.parametrize("shuffle", [False, True, "batch"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_is_that_of_keras(kind, shuffle):
    if (keras.backend.backend(), kind, shuffle) == ("torch", "random", "batch"):
        pytest.skip("PyTorch draws the order within a batch between the steps")
    make, how = KINDS[kind]
    (model, history), (ours, our_history) = (trained(f, make, shuffle=shuffle, **how) for f in (by_keras, tl.fit))
    for a, b in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert our_history.keys() == history.keys()
    for name in history:
        np.testing.assert_allclose(our_history[name], history[name], rtol=1e-5)


@elsewhere
def test_blocks_of_steps_are_the_same_steps(monkeypatch):
    from transferlit.loop import scan

    one, _ = trained(tl.fit, random_network, shuffle=False)
    monkeypatch.setattr(scan, "steps_together", lambda: 3)
    other, _ = trained(tl.fit, random_network, shuffle=False)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


class Shuffled(L.Layer):
    """It needs to know how many rows a batch has, on JAX."""

    def __init__(self, **more):
        super().__init__(**more)
        self.seed_generator = keras.random.SeedGenerator(5)

    def call(self, x):
        return x + keras.random.shuffle(x, axis=0, seed=self.seed_generator)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


@elsewhere
def test_a_step_may_ask_how_many_rows_it_has():
    (model, history), (ours, our_history) = (
        trained(f, lambda: network(Shuffled()), shuffle=False, validation_split=0.3) for f in (by_keras, tl.fit))
    for a, b in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert our_history.keys() == history.keys()


class Scaled(L.Layer):
    scale = 1.0

    def call(self, x):
        return x * self.scale


class Warmer(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.get_layer("scaled").scale = 1.0 + epoch


@elsewhere
def test_settings_below_the_cut_count_as_in_keras():
    """On PyTorch Keras reads them in every step, on JAX when it compiles."""
    (model, history), (ours, our_history) = (
        trained(f, lambda: network(Scaled(name="scaled")), callbacks=[Warmer()], validation_split=0.3)
        for f in (by_keras, tl.fit))
    for a, b in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for name in history:
        np.testing.assert_allclose(our_history[name], history[name], rtol=1e-5)


# A step of Keras' own is recorded and taken again, on PyTorch.

on_torch = pytest.mark.skipif(keras.backend.backend() != "torch", reason="for PyTorch: make test-torch")


class Own(L.Layer):
    """Python that may do something else each time."""

    def call(self, x):
        return x * 2


class Slower(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.beta_1 = 0.1 * epoch


def program_of(model):
    from transferlit.loop import steps

    (*_, program), = steps._PROGRAMS[model].values()
    return program


def same_as_keras(make, **how):
    """The program that trained the same model as Keras, to the bit."""
    how = {name: [callback() for callback in value] if name == "callbacks" else value for name, value in how.items()}
    (model, history), (ours, ours_history) = (trained(f, make, shuffle=False, **how) for f in (by_keras, tl.fit))
    every = [[keras.ops.convert_to_numpy(v) for v in [*m.variables, *m.optimizer.variables]] for m in (model, ours)]
    for a, b in zip(*every, strict=True):
        np.testing.assert_array_equal(a, b)
    assert ours_history == history
    return program_of(ours)


RECORDED = {
    "adam": lambda: network(L.BatchNormalization()),
    "a rate that Python reads": lambda: network(optimizer=keras.optimizers.SGD(0.1, momentum=0.9)),
    "a schedule": lambda: network(optimizer=keras.optimizers.RMSprop(keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5))),
    "what torch.jit does not trace": lambda: network(L.LayerNormalization()),
}
BY_KERAS = {
    "other Python": lambda: network(Own(), frozen=False),
    "a seed that moves": lambda: network(L.Dropout(0.3, seed=1)),
    "a count that decides": lambda: network(optimizer=keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)),
    "numbers taken by NumPy": lambda: network(optimizer="nadam"),
}


@on_torch
@pytest.mark.parametrize("kind", [*RECORDED, *BY_KERAS])
def test_a_step_is_recorded_where_it_is_the_same_each_time(kind, monkeypatch):
    from transferlit.loop import replay

    monkeypatch.setattr(replay, "_WAIT", 2)
    program = same_as_keras({**RECORDED, **BY_KERAS}[kind])
    assert (program.recording is not None) == (kind in RECORDED)


@on_torch
def test_a_recording_is_dropped_when_a_setting_changes(monkeypatch):
    from transferlit.loop import replay

    monkeypatch.setattr(replay, "_WAIT", 2)
    monkeypatch.setattr("transferlit.loop.running._SECONDS", 600)  # many steps a call, on a busy machine, too
    kept = []
    settle = replay._settle
    monkeypatch.setattr(replay, "_settle", lambda graph, still: kept.append(graph) or settle(graph, still))
    same_as_keras(network, callbacks=[Slower])
    assert len(kept) == 2  # one an epoch


class Clipping(keras.callbacks.Callback):
    """A limit that the first batch of an epoch does not reach."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.clipvalue = 1e3 if epoch == 0 else 0.02


@on_torch
def test_a_setting_that_does_not_tell_at_once_is_seen(monkeypatch):
    from transferlit.loop import replay

    monkeypatch.setattr(replay, "_WAIT", 2)
    monkeypatch.setattr("transferlit.loop.running._SECONDS", 600)  # many steps a call, on a busy machine, too
    monkeypatch.setattr(replay.Replay, "_compare", lambda self, rows, leaves: self.recording(rows, leaves))
    same_as_keras(lambda: network(optimizer=keras.optimizers.SGD(0.1, clipvalue=1e3)), callbacks=[Clipping])


@on_torch
def test_no_callback_between_batches_is_missed(monkeypatch):
    from transferlit.loop import replay

    class Rates(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.optimizer.beta_1 = 0.1 * (batch % 9)

    monkeypatch.setattr(replay, "_WAIT", 2)
    same_as_keras(network, callbacks=[Rates])

@elsewhere
def test_features_are_kept_and_trained_on(tmp_path):
    model = network(L.Dropout(0.2))
    kept = tl.precompute(model, X, Y, store=tmp_path, batch_size=16, verbose=False)
    low = keras.ops.convert_to_numpy(tl.split(model).lower(X))
    np.testing.assert_allclose(np.asarray(kept.arrays[0]), low, atol=1e-6)
    again = tl.precompute(model, X, Y, store=tmp_path, verbose=False)
    assert again.note.startswith("Reused") and again.parts["versions"][keras.backend.backend()]
    before = model.get_weights()
    tl.fit(model, cache=again, epochs=2, verbose=0)
    after = model.get_weights()
    assert np.array_equal(before[0], after[0]) and not np.array_equal(before[-1], after[-1])


@elsewhere
@pytest.mark.parametrize("kind", [k for k in KINDS if k in ("random", "statistics", "accumulated")])
def test_settings_are_compared_as_one_by_one(kind, monkeypatch):
    monkeypatch.setattr("transferlit.loop.stacked.count_accelerators", lambda: 1)
    make, _ = KINDS[kind]
    how = dict(epochs=2, validation_split=0.3, batch_size=16, shuffle=False)
    over = {"optimizer.learning_rate": [0.1, 0.001]}
    one_by_one = {"callbacks": [keras.callbacks.Callback()]}  # any callback sees one model at a time

    def swept(**more):
        keras.utils.set_random_seed(3)  # a random layer draws its seed when it is made
        return tl.sweep(make(), X, Y, over=over, **how, **more)

    together, alone = swept(), swept(**one_by_one)
    for a, b in zip(together.rows, alone.rows, strict=True):
        for name in b.keys() - {"trained"}:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4)
        for v, w in zip(a["trained"].state, b["trained"].state, strict=True):
            np.testing.assert_allclose(v, w, atol=1e-5)
    assert together.rows[0]["val_loss"] <= together.rows[1]["val_loss"]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="for JAX: make test-jax")
def test_settings_train_in_one_program(monkeypatch):
    from transferlit import loop

    monkeypatch.setattr("transferlit.loop.stacked.count_accelerators", lambda: 1)
    monkeypatch.setattr(loop, "run", None)  # which trains one model
    rows = tl.sweep(random_network(), X, Y, over={"optimizer.learning_rate": [0.1, 0.01]}, epochs=1, validation_split=0.3)
    assert len(rows.rows) == 2


@elsewhere
def test_stages_train_what_they_say():
    model = network(L.Dense(4, name="mid"), frozen=False)
    before = {p: np.array(v) for p, v in tl.by_path(model).items()}
    tl.finetune(model, X, Y, [tl.Stage("out", 1), tl.Stage(["mid", "out"], 1)], verbose=0)
    moved = {p for p, v in tl.by_path(model).items() if not np.array_equal(before[p], np.array(v))}
    assert moved == {"mid/kernel", "mid/bias", "out/kernel", "out/bias"}


on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="for JAX: make test-jax")


class Numbered(keras.utils.PyDataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        return X[16 * i : 16 * i + 16], Y[16 * i : 16 * i + 16]


@on_jax
@pytest.mark.parametrize("accelerators", [0, 1])
def test_what_shares_an_array_does_not_lose_it(accelerators, monkeypatch):
    """On JAX a value that is assigned to another variable is one array for both."""
    monkeypatch.setattr("transferlit.loop.scan.count_accelerators", lambda: accelerators)
    model, other = network(frozen=False), network(frozen=False)
    for v, w in zip(model.variables, other.variables, strict=True):
        w.assign(v)
    before = np.asarray(other(X))
    tl.fit(model, X, Y, epochs=2, validation_data=(X, Y), verbose=0)
    np.testing.assert_array_equal(other(X), before)


@on_jax
@pytest.mark.parametrize("accelerators", [0, 1])
@pytest.mark.parametrize("data", [(X, Y), (Numbered(),)], ids=["loop", "by Keras"])
def test_averages_are_kept_when_training_goes_on(data, accelerators, monkeypatch, tmp_path):
    """At the end of `fit` weights are set to their averages, which is one array for both."""
    monkeypatch.setattr("transferlit.loop.scan.count_accelerators", lambda: accelerators)
    model = network(optimizer=keras.optimizers.Adam(0.01, use_ema=True))
    for _ in range(2):
        tl.fit(model, *data, epochs=2, validation_data=(X, Y), verbose=0)
        model.predict(X, verbose=0)
    tl.save(model, tmp_path / "m.keras")


@elsewhere
@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5", "m.safetensors", "m.ckpt"])
def test_saved_is_restored(tmp_path, name):
    model, other = network(), network()
    for v in other.variables:
        v.assign(v * 0)
    tl.save(model, tmp_path / name)
    tl.restore(other, tmp_path / name)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class Wraps(keras.Model):
    """A module of PyTorch, which keeps statistics beside its parameters."""

    def __init__(self):
        import torch

        super().__init__()
        inner = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.BatchNorm1d(8))
        self.low, self.out = L.TorchModuleWrapper(inner, name="low"), L.Dense(3, name="out")
        self(X[:4])
        self.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def call(self, x):
        return self.out(self.low(x))


@on_torch
@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5", "m.safetensors"])
def test_statistics_of_a_module_are_restored(tmp_path, name):
    model, other = Wraps(), Wraps()
    tl.fit(model, X, Y, epochs=2, verbose=0)
    tl.save(model, tmp_path / name)
    tl.restore(other, tmp_path / name)
    np.testing.assert_array_equal(other.predict(X, verbose=0), model.predict(X, verbose=0))


@on_torch
def test_a_file_without_statistics_of_a_module_says_so(tmp_path):
    tl.save(Wraps(), tmp_path / "m.ckpt")
    with pytest.raises(ValueError, match="low/buffers"):
        tl.restore(Wraps(), tmp_path / "m.ckpt")


@elsewhere
def test_models_are_shared_grafted_and_barred(tmp_path):
    model = network()
    tl.share(model, tmp_path / "s")
    np.testing.assert_allclose(*[keras.ops.convert_to_numpy(m(X)) for m in (tl.shared(tmp_path / "s"), model)], atol=1e-6)
    assert tl.graft(model, "low", L.Dense(5)).output.shape == (None, 5)
    barred = tl.stop_after(network(frozen=False), "low")
    assert barred.output.shape == (None, 3)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_models_are_shared_between_backends(tmp_path, backend):
    pytest.importorskip(backend)
    inner = keras.Sequential([keras.Input((12,)), L.Dense(4)])
    inner.compile("adam", "mse")
    model = keras.Sequential([keras.Input((12,)), inner, L.Dense(3)])
    model.compile("adam", lambda y, out: keras.ops.mean(out - y))
    tl.share(model, tmp_path / "ours")
    program = REFUSING + """
import keras, transferlit as tl
model = tl.shared(sys.argv[1])
for one in model.layers[0], model:
    one.compile('adam', 'mse')  # which has a class of its own on PyTorch
tl.share(model, sys.argv[2])
"""
    run(program, backend, tmp_path / "ours", tmp_path / "theirs")
    again = tl.shared(tmp_path / "theirs")
    assert not again.compiled
    np.testing.assert_allclose(*[keras.ops.convert_to_numpy(m(X)) for m in (again, model)], atol=1e-6)


def test_optimizers_in_older_shared_folders_are_passed_over(tmp_path):
    model = network()
    path = tl.share(model, tmp_path / "s") / "config.json"
    config = json.loads(path.read_text())
    config["architecture"] = json.loads(model.to_json())
    optimizer = config["architecture"]["compile_config"]["optimizer"]
    optimizer["module"], optimizer["registered_name"] = "keras.src.backend.another.optimizers", "Another"
    path.write_text(json.dumps(config))
    assert not tl.shared(tmp_path / "s").compiled


@elsewhere
def test_what_reads_a_variable_that_trains_is_not_cached():
    other, inputs = keras.layers.Dense(6, name="other"), keras.Input((6,))
    frozen = keras.layers.Dense(6, trainable=False, name="frozen")(inputs)
    tied = keras.layers.Lambda(lambda t: t * other.kernel[0], output_shape=(6,), name="tied")
    beside = other(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(2, name="head")(tied(frozen)), beside])
    cut = tl.split(model)
    assert cut.layers == ["frozen"]
    assert any("other/kernel" in row["reason"] for row in cut.reasons)


def test_masks_cross_the_cut():
    def make():
        keras.utils.set_random_seed(0)
        enters = keras.Input((None,), dtype="int32")
        h = L.Embedding(9, 4, mask_zero=True, trainable=False, name="e")(enters)
        model = keras.Model(enters, L.Dense(3)(L.LSTM(4)(h)))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    words = rng.integers(0, 9, (ROWS, 6))
    after = []
    for fit in by_keras, tl.fit:
        model = make()
        fit(model, words, Y, epochs=2, verbose=0, shuffle=False)
        after.append(model.get_weights())
    for a, b in zip(*after, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_tensors_of_pytorch_are_read_on_every_backend():
    torch = pytest.importorskip("torch")
    from transferlit import backends

    of_half = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    assert backends.to_numpy(of_half).dtype == "bfloat16" and backends.to_numpy(of_half).sum() == 3
    assert backends.to_numpy(torch.ones(3, requires_grad=True)).dtype == "float32"
    rows = torch.from_numpy(X).to(torch.bfloat16).requires_grad_()
    found, expected = (tl.precompute(network(), x, verbose=False).arrays[0] for x in (rows, rows.detach().float().numpy()))
    np.testing.assert_allclose(np.asarray(found, "float32"), expected, rtol=.02, atol=.02)


@elsewhere
@pytest.mark.parametrize("x", [np.int64, np.float64, np.float32], ids=lambda kind: kind.__name__)
def test_nothing_is_warned_of_that_keras_is_silent_about(tmp_path, x, recwarn):
    how = {"epochs": 2, "verbose": 0}
    known = rng.integers(0, 9, (ROWS, 12)).astype(x)
    network().fit(known, Y, **how)
    said = {str(w.message) for w in recwarn}
    for cache in (True, tmp_path, tmp_path):
        tl.fit(network(), known, Y, **how, cache=cache, validation_data=(known, Y))
    assert {str(w.message) for w in recwarn} <= said


@elsewhere
def test_text_is_refused_in_words():
    with pytest.raises(ValueError, match="data are numbers.*StringLookup"):
        tl.fit(network(), np.array(["a"] * ROWS), Y, verbose=0)


def stateful():
    keras.utils.set_random_seed(0)
    enters = keras.Input(batch_shape=(10, 5, 4))
    h = L.Dense(5, trainable=False, name="low")(enters)
    # PyTorch's gradients refuse the state that this layer of Keras' writes.
    remembers = L.LSTM(4, stateful=True, trainable=keras.backend.backend() != "torch")
    model = keras.Model(enters, L.Dense(3)(remembers(h)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@elsewhere
def test_models_that_name_their_batch_are_trained_as_by_keras():
    x = rng.normal(size=(30, 5, 4)).astype("float32")
    after = []
    for fit in by_keras, tl.fit:
        model = stateful()
        fit(model, x, Y[:30], batch_size=10, epochs=2, verbose=0, shuffle=False)
        after.append(model.get_weights())
    for a, b in zip(*after, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


class Few(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        return X[i * 16 : i * 16 + 16], Y[i * 16 : i * 16 + 16]


class Endless(Few):
    num_batches = None


def loaded():
    data = pytest.importorskip("torch").utils.data
    return data.DataLoader([(X[i], Y[i]) for i in range(32)], batch_size=16)


DATASETS = {"PyDataset": Few, "DataLoader": loaded}


@pytest.mark.parametrize("kind", DATASETS)
def test_settings_are_compared_on_the_rows_of_a_dataset(kind):
    how = dict(over={"optimizer.learning_rate": [0.1, 0.01]}, epochs=2, shuffle=False)
    make = DATASETS[kind]
    ours = tl.sweep(network(), make(), **how, validation_data=make())
    theirs = tl.sweep(network(), X[:32], Y[:32], **how, batch_size=16, validation_data=(X[:32], Y[:32]))
    for a, b in zip(ours.to_dict(), theirs.to_dict(), strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_a_dataset_without_end_is_refused():
    with pytest.raises(ValueError, match="come to an end.*Received: an endless Endless"):
        tl.sweep(network(), Endless(), over={"optimizer.learning_rate": [0.1]}, validation_data=(X, Y))
    with pytest.raises(ValueError, match="the same rows.*Received: a generator"):
        tl.sweep(network(), iter([(X, Y)]), over={"optimizer.learning_rate": [0.1]}, validation_data=(X, Y))


@elsewhere
def test_a_dataset_is_trained_on_by_keras():
    with pytest.warns(UserWarning, match="datasets flow into the loop on TensorFlow"):
        assert tl.fit(network(), Few(), verbose=0).history["loss"]


# The commands, in a process that refuses TensorFlow.
COMMANDS = REFUSING + """
sys.argv = ['transferlit', *sys.argv[1:]]
from transferlit.cli import main
try:
    main()
finally:
    assert sys.modules['tensorflow'] is None
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_command_line_needs_no_tensorflow(tmp_path, backend):
    pytest.importorskip(backend)
    tl.save(network(), tmp_path / "m.keras")
    tl.save(network(), tmp_path / "w.safetensors")
    file, model = tmp_path / "w.safetensors", tmp_path / "m.keras"
    assert "low/kernel" in run(COMMANDS, backend, "peek", file)
    assert "low/kernel" in run(COMMANDS, backend, "plan", model, file)
    run(COMMANDS, backend, "convert", file, tmp_path / "w.npz")
    assert "low/kernel" in run(COMMANDS, backend, "peek", tmp_path / "w.npz")
    run(COMMANDS, backend, "cache", "list", "--folder", tmp_path)


@elsewhere
def test_tensorflow_was_never_imported():  # by any test before
    assert "tensorflow" not in sys.modules


@elsewhere
def test_a_generator_to_validate_on_goes_on_from_epoch_to_epoch():
    def held():
        while True:
            for i in range(3):
                yield X[30 * i : 30 * i + 30], Y[30 * i : 30 * i + 30]

    (_, history), (_, ours) = (
        trained(f, network, shuffle=False, validation_data=held(), validation_steps=2) for f in (by_keras, tl.fit))
    for name in history:
        np.testing.assert_allclose(ours[name], history[name], rtol=1e-5)


def decayed():
    made = keras.optimizers.AdamW(0.05, weight_decay=0.1)
    made.exclude_from_weight_decay(var_names=["bias"])
    return made


WITH_RATES = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.05),
    "decay but of biases": decayed,
    "one counter for all": lambda: keras.optimizers.Nadam(0.05),
    "clipped as a whole": lambda: keras.optimizers.RMSprop(0.05, global_clipnorm=0.1),
    "accumulated": lambda: keras.optimizers.Adam(0.05, gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.05)),
}


@elsewhere
@pytest.mark.parametrize("kind", WITH_RATES)
def test_equal_rates_by_pattern_are_one_rate(kind):
    one, many = (network(frozen=False, optimizer=WITH_RATES[kind]()) for _ in range(2))
    tl.finetune(one, X, Y, [tl.Stage(".*", 3, 0.05)], shuffle=False, verbose=0)
    tl.finetune(many, X, Y, [tl.Stage(".*", 3, {"out": 0.05, "low": 0.05})], shuffle=False, verbose=0)
    for a, b in zip(one.get_weights(), many.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@elsewhere
def test_rates_by_pattern_are_those_of_several_optimizers():
    by_layer = keras.optimizers.OptimizerMap(keras.optimizers.Adam(0.001), {"out/.*": keras.optimizers.Adam(0.1)})
    theirs = network(frozen=False, optimizer=keras.optimizers.MultiOptimizer(by_layer))
    ours = network(frozen=False)
    theirs.fit(X, Y, epochs=3, shuffle=False, verbose=0)
    tl.finetune(ours, X, Y, [tl.Stage(".*", 3, {"out": 0.1, "low": 0.001})], shuffle=False, verbose=0)
    for a, b in zip(theirs.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
