"""Stages by `finetune` are stages by hand with `Model.fit`; what raises leaves nothing half done."""
import keras
import numpy as np
import pytest
from keras import layers as L
from keras import optimizers as O

import transferlit as tl

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(48, 5)).astype("float32"), RNG.integers(0, 3, 48)
QUIET = dict(batch_size=16, shuffle=False, verbose=0)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(optimizer):
    keras.utils.set_random_seed(0)
    x = keras.Input((5,))
    h = L.Dense(6, "tanh", name="low")(L.Dense(8, "tanh", name="body")(x))
    model = keras.Model(x, L.Dense(3, name="head")(h))
    model.compile(optimizer, LOSS, metrics=["accuracy"])
    return model


def decayed(kind, **more):
    optimizer = kind(weight_decay=0.1, **more)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def schedule():
    return O.schedules.ExponentialDecay(0.3, 4, 0.5)


OPTIMIZERS = {
    "sgd": lambda: O.SGD(0.3, momentum=0.9),
    "adam": lambda: O.Adam(0.02),
    "decay but of biases": lambda: decayed(O.AdamW, learning_rate=0.02),
    "nadam": lambda: O.Nadam(0.02),
    "rmsprop": lambda: O.RMSprop(0.02),
    "clipped": lambda: O.Adam(0.02, global_clipnorm=0.05),
    "scaled loss": lambda: O.LossScaleOptimizer(O.Adam(0.02)),
    "schedule": lambda: O.SGD(schedule(), momentum=0.9),
}
STAGES = [("head", 2, None), ("head|low", 2, 0.01), (".*", 1, None)]


def by_hand(model, stages):
    "Flags by hand and one optimizer that knows all variables from the beginning."
    model.optimizer.build(model.trainable_variables)
    for train, epochs, rate in stages:
        for layer in model.layers[1:]:
            layer.trainable = any(layer.name == name for name in train.split("|")) or train == ".*"
        if rate is not None:
            getattr(model.optimizer, "inner_optimizer", model.optimizer).learning_rate = rate
        model.train_function = None
        model.fit(X, Y, epochs=epochs, **QUIET)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.filterwarnings("ignore:A layer's `trainable` state")
def test_stages_are_those_by_hand(kind):
    stages = [(t, e, None) for t, e, _ in STAGES] if kind == "schedule" else STAGES
    theirs, ours = net(OPTIMIZERS[kind]()), net(OPTIMIZERS[kind]())
    by_hand(theirs, stages)
    own = ours.optimizer
    done = tl.finetune(ours, X, Y, [tl.Stage(*stage) for stage in stages], **QUIET)
    assert ours.optimizer is own and len(done.history["loss"]) == 5
    for a, b in zip(theirs.weights, ours.weights):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-6, err_msg=a.path)


@pytest.mark.parametrize("kind", ["averages", "accumulation"])
def test_one_stage_is_a_fit(kind):
    def optimizer():
        if kind == "averages":
            return O.SGD(0.3, use_ema=True, ema_overwrite_frequency=2)
        return O.Adam(0.02, gradient_accumulation_steps=2)

    theirs, ours = net(optimizer()), net(optimizer())
    theirs.get_layer("body").trainable = False
    theirs.compile(optimizer(), LOSS, metrics=["accuracy"])
    history = theirs.fit(X, Y, epochs=3, **QUIET).history
    done = tl.finetune(ours, X, Y, [tl.Stage("low|head", 3)], **QUIET)
    np.testing.assert_allclose(done.history["loss"], history["loss"], atol=2e-6)
    for a, b in zip(theirs.weights, ours.weights):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-6, err_msg=a.path)


@pytest.mark.parametrize("kind", ["sgd", "adam", "decay but of biases", "nadam", "clipped", "scaled loss"])
def test_equal_rates_by_pattern_are_one_rate(kind):
    one, many = net(OPTIMIZERS[kind]()), net(OPTIMIZERS[kind]())
    tl.finetune(one, X, Y, [tl.Stage(".*", 3, 0.05)], **QUIET)
    tl.finetune(many, X, Y, [tl.Stage(".*", 3, {"head": 0.05, "low|body": 0.05})], **QUIET)
    for a, b in zip(one.weights, many.weights):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-6, err_msg=a.path)


@pytest.mark.skipif(not hasattr(O, "MultiOptimizer"), reason="Keras' own way came with 3.15")
@pytest.mark.parametrize("kind", ["sgd", "adam", "decay but of biases"])
def test_rates_by_pattern_are_those_of_several_optimizers(kind):
    def several():
        slow, fast = OPTIMIZERS[kind](), OPTIMIZERS[kind]()
        slow.learning_rate, fast.learning_rate = 0.001, 0.1
        return O.MultiOptimizer(O.OptimizerMap(slow, {"head/.*": fast}))

    theirs, ours = net(several()), net(OPTIMIZERS[kind]())
    theirs.fit(X, Y, epochs=3, **QUIET)
    tl.finetune(ours, X, Y, [tl.Stage(".*", 3, {"head": 0.1, "low|body": 0.001})], **QUIET)
    for a, b in zip(theirs.weights, ours.weights):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-6, err_msg=a.path)


@pytest.mark.skipif(not hasattr(O, "MultiOptimizer"), reason="Keras' own way came with 3.15")
def test_several_optimizers_of_the_user_stay():
    def several():
        return O.MultiOptimizer(O.OptimizerMap(O.SGD(0.1), {"head/.*": O.Adam(0.01)}))

    theirs, ours = net(several()), net(several())
    theirs.fit(X, Y, epochs=3, **QUIET)
    own = ours.optimizer
    tl.finetune(ours, X, Y, [tl.Stage(".*", 3)], **QUIET)
    assert ours.optimizer is own
    for a, b in zip(theirs.weights, ours.weights):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-6, err_msg=a.path)
    was = ours.get_layer("body").kernel.numpy()
    tl.finetune(ours, X, Y, [tl.Stage(".*", 1, {"head": 0.1, "low|body": 1e-30})], **QUIET)
    np.testing.assert_array_equal(ours.get_layer("body").kernel.numpy(), was)


def rates_seen(stages):
    seen, model = [], net(O.SGD(schedule()))
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: seen.append(float(model.optimizer.learning_rate)))
    tl.finetune(model, X, Y, stages, callbacks=[note], **QUIET)
    return seen, model


@pytest.mark.parametrize("rate", [0.1, {"head": 0.1, "low|body": 0.01}])
def test_a_schedule_goes_on_around_other_rates(rate):
    alone, _ = rates_seen([tl.Stage("head", 3)])
    seen, model = rates_seen([tl.Stage("head", 3), tl.Stage(".*", 1, rate), tl.Stage("head", 1)])
    assert seen[:3] == alone
    assert float(model.optimizer.learning_rate) == pytest.approx(float(schedule()(15)))


def test_a_callback_scales_all_rates():
    def train(change):
        model = net(O.SGD(0.5))
        calls = [keras.callbacks.LearningRateScheduler(lambda e, lr: lr * change if e else lr)]
        tl.finetune(model, X, Y, [tl.Stage(".*", 2, {"head": 0.2, "low|body": 0.1})], callbacks=calls, **QUIET)
        return model

    by_hand = net(O.SGD(0.5))
    tl.finetune(by_hand, X, Y, [tl.Stage(".*", 1, {"head": 0.2, "low|body": 0.1}),
                                tl.Stage(".*", 1, {"head": 0.02, "low|body": 0.01})], **QUIET)
    for a, b in zip(train(0.1).weights, by_hand.weights):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-6)


@pytest.mark.parametrize("kind", ["adam", "decay but of biases", "clipped", "scaled loss", "schedule"])
def test_the_optimizer_comes_back_from_a_file(kind, tmp_path):
    model = net(OPTIMIZERS[kind]())
    tl.finetune(model, X, Y, [tl.Stage(".*", 2, {"head": 0.1, "low|body": 0.01})], **QUIET)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert type(again.optimizer) is type(model.optimizer)
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for a, b in zip(model.optimizer.variables, again.optimizer.variables):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    if kind != "decay but of biases":  # a file does not hold what is excluded
        for one in (model, again):
            one.fit(X, Y, **QUIET)
        for a, b in zip(model.weights, again.weights):
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-6)


class StopAt(keras.callbacks.Callback):
    def __init__(self, epoch, error):
        super().__init__()
        self.epoch, self.error = epoch, error

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise self.error


def state(model):
    optimizer = model.optimizer
    parts = [getattr(optimizer, "inner_optimizer", optimizer)]
    rates = [p._learning_rate if not isinstance(p._learning_rate, keras.Variable) else float(p.learning_rate) for p in parts]
    return dict(
        optimizer=optimizer, rates=rates, built=optimizer.built, train=model.train_function,
        flags=[p.trainable for p in model._flatten_layers()], single=[v.trainable for v in model.weights],
        variables=[id(v) for v in optimizer.variables], methods=sorted(vars(optimizer)),
        known=[id(v) for v in optimizer._trainable_variables],
    )


@pytest.mark.parametrize("kind", ["adam", "scaled loss", "schedule"])
@pytest.mark.parametrize("when", ["before", "first stage", "later stage", "Ctrl-C"])
def test_what_raises_leaves_all_as_it_was(kind, when):
    model = net(OPTIMIZERS[kind]())
    tl.freeze(model, "body/bias")
    model.fit(X, Y, **QUIET)
    was, weights = state(model), model.get_weights()
    slots = [v.numpy() for v in model.optimizer.variables]
    stages = [tl.Stage("head", 1, 0.01), tl.Stage(".*", 2, {"head": 0.1, "low|body": 0.01})]
    error = KeyboardInterrupt() if when == "Ctrl-C" else RuntimeError("stop")
    more = dict(callbacks=[StopAt(dict(zip(("first stage", "later stage"), (0, 2))).get(when, 2), error)])
    if when == "before":
        more = dict(unknown_argument=1)
    with pytest.raises((RuntimeError, KeyboardInterrupt, TypeError, ValueError)):
        tl.finetune(model, X, Y, stages, **QUIET, **more)
    now = state(model)
    assert {k: v for k, v in now.items() if v != was[k]} == {}
    if when in ("before", "first stage"):
        for a, b in zip(weights, model.get_weights()):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(slots, model.optimizer.variables):
            np.testing.assert_array_equal(a, b.numpy())
    model.fit(X, Y, **QUIET)
    tl.fit(model, X, Y, **QUIET)


def test_an_optimizer_that_was_not_built_is_usable_after_an_interruption():
    model = net(O.Adam(0.01))
    with pytest.raises(KeyboardInterrupt):
        tl.finetune(model, X, Y, [tl.Stage("head", 2), tl.Stage(".*", 2)], callbacks=[StopAt(2, KeyboardInterrupt())], **QUIET)
    assert int(model.optimizer.iterations) == 6 and len(model.trainable_variables) == 6
    tl.fit(model, X, Y, **QUIET)
    assert int(model.optimizer.iterations) == 9


def test_a_layer_is_a_stage():
    model = net(O.SGD(0.1))
    was = model.get_layer("body").kernel.numpy()
    tl.finetune(model, X, Y, [model.get_layer("head")], **QUIET)
    np.testing.assert_array_equal(model.get_layer("body").kernel.numpy(), was)
    assert [v.path.split("/")[0] for v in model.trainable_variables] == ["head", "head"]
