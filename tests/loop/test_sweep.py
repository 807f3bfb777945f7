"""Each row of a sweep is what training with its setting from the start gives, whatever the setting is; the model stays as it was."""
import itertools

import keras
import numpy as np
import pytest
from keras import layers
from keras import optimizers as O

import transferlit as tl

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
SPARSE, HOW = "sparse_categorical_crossentropy", dict(epochs=2, validation_split=0.25, shuffle=False)
rng = np.random.default_rng(5)
X, Y = rng.normal(size=(192, 8)).astype("float32"), rng.integers(0, 3, 192)


def network(optimizer, loss=SPARSE, top=None, **more):
    keras.utils.set_random_seed(1)
    x = keras.Input((8,))
    below = layers.Dense(12, "relu", name="below")(x)
    model = keras.Model(x, (top or head())(below))
    tl.freeze(model, "below.*")
    model.compile(optimizer, loss, **more)
    return model


def head():
    start = keras.initializers.GlorotUniform(7)
    return layers.Dense(3, "softmax", kernel_initializer=start, name="head")


class Halving(O.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.2 / (keras.ops.cast(step, "float32") + 1)

    def get_config(self):
        return {}


COSINE = O.schedules.CosineDecay(0.1, 12)
SETTINGS = {
    "momentum where there is none": (lambda **kw: O.SGD(0.1, **kw), {"momentum": [0.0, 0.9], "nesterov": [False, True]}),
    "clipping": (lambda **kw: O.AdamW(0.01, **kw), {"clipnorm": [None, 0.01], "weight_decay": [0.0, 0.1]}),
    "slots of another form": (lambda **kw: O.Adam(0.05, **kw), {"amsgrad": [False, True], "use_ema": [False, True]}),
    "accumulation": (lambda **kw: O.Adam(0.05, **kw), {"gradient_accumulation_steps": [None, 4]}),
    "number to schedule": (lambda learning_rate=0.1, **kw: O.SGD(learning_rate), {"learning_rate": [0.1, COSINE, Halving()]}),
    "schedule to number": (lambda learning_rate=COSINE, **kw: O.SGD(learning_rate), {"learning_rate": [0.1, COSINE, Halving()]}),
    "inside of a loss scale": (lambda **kw: O.LossScaleOptimizer(O.Adam(0.05, **kw)), {"beta_1": [0.5, 0.9]}),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_row_is_the_training_with_its_setting(case):
    make, over = SETTINGS[case]
    model = network(make())
    optimizer, config, start = model.optimizer, str(model.optimizer.get_config()), model.get_weights()
    found = tl.sweep(model, X, Y, over={f"optimizer.{name}": values for name, values in over.items()}, **HOW)
    assert model.optimizer is optimizer and str(optimizer.get_config()) == config
    for a, b in zip(model.get_weights(), start, strict=True):
        np.testing.assert_array_equal(a, b)

    wanted = []
    for settings in _combinations(over):
        by_hand = network(make(**settings))
        history = by_hand.fit(X, Y, verbose=0, **HOW).history
        wanted.append((history["val_loss"][-1], by_hand))
    for i, (loss, by_hand) in enumerate(sorted(wanted, key=lambda pair: pair[0])):
        assert found[i]["val_loss"] == pytest.approx(loss, abs=1e-5)
        put = found.put(i)
        for a, b in zip(put.get_weights(), by_hand.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def _combinations(over):
    return [dict(zip(over, values)) for values in itertools.product(*over.values())]


def test_what_was_put_trains_on_and_is_saved_with_its_setting(tmp_path):
    model = network(O.SGD(0.1))
    found = tl.sweep(model, X, Y, over={"optimizer.momentum": [0.0, 0.9]}, **HOW)
    row = next(i for i, row in enumerate(found.rows) if row["optimizer.momentum"])
    by_hand = network(O.SGD(0.1, momentum=0.9))
    by_hand.fit(X, Y, verbose=0, **HOW)
    found.put(row).save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.momentum == 0.9
    for trained in (by_hand, model, loaded):
        trained.fit(X, Y, verbose=0, shuffle=False)
    for ours in (model, loaded):
        for a, b in zip(ours.get_weights(), by_hand.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def own_loss(y, p):
    return 2 * keras.losses.sparse_categorical_crossentropy(y, p)


class Scaled(keras.losses.Loss):
    def __init__(self, by, **kw):
        super().__init__(**kw)
        self.by = by

    def call(self, y, p):
        return self.by * keras.losses.sparse_categorical_crossentropy(y, p)


class OwnSGD(O.SGD):
    pass


COMPILED = {
    "a function as loss": dict(optimizer="adam", loss=own_loss),
    "a lambda as loss": dict(optimizer="adam", loss=lambda y, p: own_loss(y, p)),
    "a loss with a setting that its config leaves out": dict(optimizer="adam", loss=Scaled(3.0)),
    "metrics": dict(optimizer="adam", metrics=[lambda y, p: keras.ops.max(p, -1), "accuracy"], weighted_metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2)]),
    "an optimizer of one's own": dict(optimizer=OwnSGD(0.3)),
}


@pytest.mark.parametrize("case", COMPILED)
def test_a_head_trains_with_what_the_model_was_compiled_with(case):
    model = network(**COMPILED[case])
    found = tl.sweep(model, X, Y, over={"head": [head()]}, **HOW)
    again = {k: type(v).from_config(v.get_config()) if isinstance(v, O.Optimizer) else v for k, v in COMPILED[case].items()}
    history = network(**again).fit(X, Y, verbose=0, **HOW).history
    for name, values in history.items():
        assert found[0][name] == pytest.approx(values[-1], abs=1e-5)


def test_a_head_trains_with_the_optimizer_of_now():
    model = network("adam")
    model.optimizer = O.SGD(0.5)
    found = tl.sweep(model, X, Y, over={"head": [head()]}, **HOW)
    history = network(O.SGD(0.5)).fit(X, Y, verbose=0, **HOW).history
    assert found[0]["val_loss"] == pytest.approx(history["val_loss"][-1], abs=1e-5)


class Stops(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


@pytest.mark.parametrize("over", [{"optimizer.learning_rate": [0.1, 0.5]}, {"optimizer.clipnorm": [0.1, 0.5]}])
def test_stopped_the_model_is_as_it_was(over):
    model = network(O.Adam(0.1))
    model.fit(X, Y, verbose=0)
    optimizer, before = model.optimizer, [v.numpy() for v in [*model.variables, *model.optimizer.variables]]
    with pytest.raises(KeyboardInterrupt):
        tl.sweep(model, X, Y, over=over, callbacks=[Stops()], **HOW)
    assert model.optimizer is optimizer
    for a, b in zip([*model.variables, *optimizer.variables], before, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)


def test_what_cannot_be_set_is_said_before_anything_trains():
    for name in "optimizer.variables", "optimizer.name", "optimizer.nothing", "momentum":
        with pytest.raises(ValueError, match="attribute of the optimizer.*optimizer.momentum"):
            tl.sweep(network(O.SGD(0.1)), X, Y, over={name: [0.1]}, **HOW)
    with pytest.raises(ValueError, match="clipnorm"):
        tl.sweep(network(O.SGD(0.1, clipvalue=1.0)), X, Y, over={"optimizer.clipnorm": [0.1]}, **HOW)
