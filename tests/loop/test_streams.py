"""Pipelines: which rows meet in a step, how often they are drawn, and what happens when they or the model move."""
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import transferlit as tl
from transferlit.data import Pipeline
from transferlit.features import functions_of
from transferlit.rows import Made, Stored, Stream
from transferlit.trainer.cuts import find_cut

rng = np.random.default_rng(0)
ROWS = 24
X = rng.normal(size=(ROWS, 5)).astype("float32")
X[:, 0] = np.arange(ROWS)
Y = rng.integers(0, 3, ROWS)
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(cls=keras.Model, frozen="body", **compile):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    model = cls(inputs, layers.Dense(3, name="head")(layers.Dense(8, "relu", name="body")(inputs)))
    model.compile("adam", SPARSE, **compile)
    if frozen:
        tl.freeze(model, frozen)
    return model


def spied():
    """A model that writes down the rows of each step."""
    seen = []

    class Spy(keras.Model):
        def train_step(self, data):
            tf.numpy_function(lambda x: seen.append(x[:, 0].astype(int).tolist()) or np.int64(0), [data[0]], tf.int64)
            return super().train_step(data)

    return network(Spy), seen


def counted(dataset):
    """The same dataset, and the rows that were read of it."""
    read = []

    def count(x, y):
        tf.numpy_function(lambda n: read.append(int(n)) or np.int64(0), [x[0]], tf.int64)
        return x, y

    return dataset.map(count), read


def pairs():
    return tf.data.Dataset.from_tensor_slices((X, Y))


def steps_of(seen, epochs):
    each = len(seen) // epochs
    return [seen[i * each : (i + 1) * each] for i in range(epochs)]


@pytest.mark.filterwarnings("ignore")
def test_a_shuffled_dataset_is_read_twice_and_gives_every_row_each_epoch():
    model, seen = spied()
    dataset, read = counted(pairs())
    tl.fit(model, dataset.shuffle(ROWS, seed=1).batch(8), epochs=5, verbose=0)
    ours = steps_of(seen[-15:], 5)
    assert len(read) == 2 * ROWS
    for epoch in ours:
        assert sorted(sum(epoch, [])) == list(range(ROWS))
    assert len({str(epoch) for epoch in ours}) == 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("frozen", ["body", None])
def test_epochs_that_are_drawn_are_those_of_keras(frozen):
    """A seeded order is Keras' own, so nothing was drawn before or beside it."""
    histories = []
    for fit in keras.Model.fit, tl.fit:
        model = network(frozen=frozen)
        histories.append(fit(model, pairs().shuffle(ROWS, seed=1).batch(8), epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("more", [{"steps_per_epoch": 2}, {}], ids=["steps", "text"])
def test_what_is_left_to_keras_is_not_drawn_before(more):
    losses = []
    for fit in keras.Model.fit, tl.fit:
        model = network()  # before the dataset: its seed goes into the order, too
        dataset = pairs().shuffle(ROWS, seed=1).batch(8)
        if not more:
            inputs = {"a": keras.Input((5,), name="a"), "t": keras.Input((1,), dtype="string", name="t")}
            model = keras.Model(inputs, model(inputs["a"]))
            model.compile("sgd", SPARSE)
            dataset = dataset.map(lambda x, y: ({"a": x, "t": tf.strings.as_string(x[:, :1])}, y))
        losses.append(fit(model, dataset, epochs=2, verbose=0, **more).history["loss"])
    assert losses[0] == losses[1]


@pytest.mark.filterwarnings("ignore")
def test_batches_of_a_pydataset_stay_whole_in_the_order_of_keras():
    class Equal(keras.utils.PyDataset):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            return np.full((i + 2, 5), i, "float32"), np.full(i + 2, i % 3)

    orders = []
    for fit in keras.Model.fit, tl.fit:
        model, seen = spied()
        keras.utils.set_random_seed(3)
        fit(model, Equal(), epochs=4, verbose=0)
        assert all(len(set(step)) == 1 and len(step) == step[0] + 2 for step in seen[-24:])
        orders.append([step[0] for step in seen[-24:]])
    assert orders[0] == orders[1]


def test_a_thaw_in_the_middle_takes_effect():
    class Thaw(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                tl.thaw(self.model, "body")

    model = network()
    before = model.get_layer("body").kernel.numpy()
    tl.fit(model, X, Y, epochs=2, callbacks=[Thaw()], verbose=0)
    np.testing.assert_array_equal(model.get_layer("body").kernel, before)
    tl.fit(model, X, Y, epochs=3, callbacks=[Thaw()], verbose=0)
    assert (model.get_layer("body").kernel.numpy() != before).any()


class Own(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("kind", [keras.Model, Own])
@pytest.mark.parametrize("change", [tl.thaw, tl.freeze])
def test_what_trains_changes_after_the_first_epoch_of_all(change, kind, cache):
    """That epoch makes the optimizer's variables: what was there before it is compared all the same."""
    kernels = []

    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                change(self.model, "body")
            kernels.append(self.model.get_layer("body").kernel.numpy())

    model = network(kind, "body" if change is tl.thaw else None)
    tl.fit(model, X, Y, epochs=3, callbacks=[Change()], cache=cache, verbose=0)
    kernels.append(model.get_layer("body").kernel.numpy())
    moved = [bool((a != b).any()) for a, b in zip(kernels, kernels[1:])]
    assert moved == ([False, True, True] if change is tl.thaw else [True, False, False])


@pytest.mark.filterwarnings("ignore")
def test_weights_set_while_training_reach_kept_features_of_a_dataset():
    class Double(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            kernel = self.model.get_layer("body").kernel
            if epoch == 3:
                kernel.assign(kernel * 2)

    losses = [fit(network(), pairs().batch(8), epochs=6, callbacks=[Double()], verbose=0).history["loss"]
              for fit in (keras.Model.fit, tl.fit)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_features_are_refused_where_the_model_moved_from_them():
    class Shift(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            bias = self.model.get_layer("body").bias
            bias.assign(bias + epoch)

    model = network()
    kept = tl.precompute(model, X, Y, verbose=False)
    with pytest.raises(ValueError, match="body/bias"):
        tl.fit(model, cache=kept, epochs=3, callbacks=[Shift()], verbose=0)


def test_features_are_refused_where_only_keras_can_train():
    kept = tl.precompute(network(), X, Y, verbose=False)
    with pytest.raises(ValueError, match="compiled loop only, and it runs eagerly"):
        tl.fit(network(run_eagerly=True), cache=kept, verbose=0)


@pytest.mark.filterwarnings("ignore")
def test_kept_rows_are_in_memory_once(tmp_path):
    """A dataset's features, whether its length is known or not, and those that a folder holds."""
    lower = keras.Sequential([keras.Input((5,)), layers.Dense(64)])
    for dataset in pairs().batch(7), pairs().batch(7).filter(lambda x, y: True):
        stream = Stream(Pipeline(dataset), Made(lower), passes=2)
        list(stream.epoch())
        kept = stream._memory.kept.arrays
        np.testing.assert_allclose(stream._memory.leaves[0], lower.predict(X, verbose=0), atol=1e-6)
        np.testing.assert_array_equal(stream._memory.leaves[1], Y)
        kept[0][1], kept[1][1] = 7, 7  # what is written there is seen in the tensors
        assert all((leaf[1].numpy() == 7).all() for leaf in stream._memory.leaves)
    stored = tl.precompute(network(), X, Y, store=tmp_path, verbose=False)
    read = Stored.read([*stored.arrays, stored.y], stored.prints, None).leaves
    assert [t.dtype for t in read] == [tf.float32, tf.int64]
    np.testing.assert_array_equal(read[0], stored.arrays[0])


def test_a_long_dataset_takes_no_more_than_its_room():
    """Neither for rows that may still come: what does not fit is said when it is there."""
    endless = tf.data.Dataset.range(10**12).map(lambda i: tf.zeros([7, 5]))
    stream = Stream(Pipeline(endless), passes=2, room=1 << 30)
    next(stream.epoch())
    assert 0 < stream._memory.kept.arrays[0].nbytes <= 1 << 30


def test_text_that_a_dataset_gives_is_kept():
    words = tf.data.Dataset.from_tensor_slices([[b"one"], [b"two"], ["셋".encode()]]).batch(2)
    stream = Stream(Pipeline(words), passes=2)
    list(stream.epoch())
    assert stream._memory.leaves[0].numpy().ravel().tolist() == [b"one", b"two", "셋".encode()]


def test_a_dataset_with_a_folder_is_found_there(tmp_path):
    losses = [tl.fit(network(), pairs().batch(8), epochs=3, cache=str(tmp_path), verbose=0).history["loss"] for _ in range(2)]
    assert any(path.is_dir() for path in tmp_path.iterdir())
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    np.testing.assert_allclose(losses[0], network().fit(pairs().batch(8), epochs=3, verbose=0).history["loss"], rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_inputs_go_by_name_also_below_a_cut():
    def named(fit, given):
        keras.utils.set_random_seed(1)
        inputs = [keras.Input((1,), name="b"), keras.Input((1,), name="a", dtype="int32")]
        h = layers.concatenate([inputs[0], layers.Flatten()(layers.Embedding(3, 2, name="body")(inputs[1]))])
        model = keras.Model(inputs, layers.Dense(3, name="head")(h))
        tl.freeze(model, "body")
        model.compile("sgd", SPARSE)
        x = {"a": Y[:, None].astype("int32"), "b": X[:, :1], "id": np.arange(ROWS)[:, None]}
        data = dict(x=x, y=Y, shuffle=False) if given == "arrays" else dict(x=tf.data.Dataset.from_tensor_slices((x, Y)).batch(32))
        return fit(model, epochs=3, verbose=0, **data).history["loss"]

    for given in "arrays", "dataset":
        np.testing.assert_allclose(named(tl.fit, given), named(keras.Model.fit, given), rtol=1e-6)


def test_classes_are_weighted_by_output():
    inputs = keras.Input((5,))
    h = layers.Dense(4, name="body", trainable=False)(inputs)
    losses = []
    for given in dict(class_weight={"a": {0: 2.0}}), dict(sample_weight={"a": np.where(Y == 0, 2.0, 1.0), "b": np.ones(ROWS)}):
        keras.utils.set_random_seed(0)
        model = keras.models.clone_model(keras.Model(inputs, {k: layers.Dense(3, name=k)(h) for k in "ab"}))
        model.compile("sgd", {"a": SPARSE, "b": SPARSE})
        losses.append(tl.fit(model, X, {"a": Y, "b": Y}, epochs=2, shuffle=False, verbose=0, **given).history["loss"])
    assert losses[0] == losses[1]


def test_limits_of_the_configuration_hold():
    keras.config.set_max_epochs(2), keras.config.set_max_steps_per_epoch(2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = [fit(network(), X, Y, batch_size=4, epochs=5, shuffle=False, verbose=0, validation_data=(X, Y)).history
                    for fit in (keras.Model.fit, tl.fit)]
    finally:
        keras.config.set_max_epochs(None), keras.config.set_max_steps_per_epoch(None)
    assert made[0] == made[1] and len(made[1]["loss"]) == 2


@pytest.mark.parametrize("kind", [TypeError, KeyError])
def test_errors_are_of_the_type_that_keras_raises(kind):
    class Wrong(keras.losses.Loss):
        def call(self, y_true, y_pred):
            raise kind("no such thing")

    for fit in keras.Model.fit, tl.fit:
        model = network()
        model.compile("sgd", Wrong())
        with pytest.raises(kind, match="no such thing"):
            fit(model, X, Y, verbose=0)


class Scaled(keras.utils.PyDataset):
    factor = 1.0

    def __len__(self):
        return 3

    def __getitem__(self, i):
        rows = slice(8 * i, 8 * i + 8)
        return X[rows] * self.factor, Y[rows]


def _by_attribute():
    data = Scaled()
    return data, lambda epoch: setattr(data, "factor", float(epoch))


def _by_variable():
    factor = tf.Variable(1.0)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).map(lambda x, y: (x * factor, y))
    return data, lambda epoch: factor.assign(float(epoch))


@pytest.mark.parametrize("make", [_by_attribute, _by_variable])
def test_a_dataset_changed_in_the_middle_is_drawn_again(make):
    """Two passes were equal and are kept; then a callback changes what the dataset reads."""
    results = []
    for fit in keras.Model.fit, tl.fit:
        data, change = make()
        harder = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: change(epoch) if epoch > 3 else None)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            results.append(fit(network(), data, epochs=6, shuffle=False, verbose=0, callbacks=[harder]).history["loss"])
    np.testing.assert_allclose(*results, rtol=1e-5)
    assert any("was changed" in str(w.message) for w in said)


LIMITED = {
    "an epoch is a part of a pass": (lambda: pairs().batch(5), dict(epochs=9, steps_per_epoch=2)),
    "an epoch asks for more than a pass": (lambda: pairs().batch(5), dict(epochs=4, steps_per_epoch=7)),
    "repeated without end": (lambda: pairs().batch(5).repeat().map(lambda x, y: (2 * x, y)),
                             dict(epochs=7, steps_per_epoch=4, validation_data=pairs().batch(7))),
    "repeated before it is batched": (lambda: pairs().repeat().batch(5), dict(epochs=5, steps_per_epoch=4)),
    "some batches of a PyDataset": (lambda: Numbered(Y), dict(epochs=5, steps_per_epoch=2)),
    "few batches of a PyDataset": (lambda: Numbered(Y), dict(epochs=7, steps_per_epoch=1)),
    "a PyDataset that shuffles itself": (lambda: Reordered(Y), dict(epochs=4, shuffle=False)),
    "several steps in a call": (lambda: pairs().batch(5), dict(epochs=4, steps_per_epoch=3, steps_per_execution=2)),
    "several passes an epoch": (lambda: pairs().batch(5).repeat().prefetch(1), dict(epochs=3, steps_per_epoch=12)),
}


@pytest.mark.parametrize("name", LIMITED)
@pytest.mark.filterwarnings("error:This trains with", "error:The frozen part runs", "ignore:Your input ran out", "ignore:.shuffle=True")
def test_epochs_of_some_steps_are_cached_and_those_of_keras(name):
    make, more = LIMITED[name]
    results, compiled = [], {"steps_per_execution": more.get("steps_per_execution", 1)}
    more = {name: value for name, value in more.items() if name not in compiled}
    for fit in keras.Model.fit, tl.fit:
        model = network(**compiled)
        history = fit(model, make(), verbose=0, **more).history
        results.append((history, [v.tolist() for v in model.get_weights()]))
    assert results[0] == results[1]


def test_a_repeated_dataset_is_read_twice():
    batches, read = counted(pairs())
    tl.fit(network(), batches.batch(8).repeat(), epochs=6, steps_per_epoch=4, verbose=0)
    assert len(read) < 4 * ROWS  # 8 passes are trained on; what is drawn ahead is read as well


def test_no_epoch_builds_nothing():
    model = network()
    tl.fit(model, X, Y, epochs=0, verbose=0)
    assert not model.optimizer.built


class Numbered(keras.utils.PyDataset):
    def __init__(self, labels):
        super().__init__()
        self.labels = labels

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return X[8 * i : 8 * i + 8], self.labels[8 * i : 8 * i + 8]


class Reordered(Numbered):
    def __init__(self, labels):
        super().__init__(labels)
        self.order = np.arange(ROWS)

    def on_epoch_end(self):
        self.order = np.roll(self.order, 5)

    def __getitem__(self, i):
        rows = self.order[8 * i : 8 * i + 8]
        return X[rows], self.labels[rows]


@pytest.mark.parametrize("jit", [True, False])
def test_labels_that_a_dataset_gives_are_none_of_the_classes(jit):
    labels = np.where(np.arange(ROWS) == 20, 3, Y)
    wrong = tf.data.Dataset.from_tensor_slices((X, labels)).batch(8)
    for given in dict(x=wrong), dict(x=Numbered(labels)), dict(x=X, y=Y, validation_data=wrong):
        with pytest.raises(ValueError, match="class numbers from 0 to 2.*Received: y from . to 3"):
            tl.fit(network(), verbose=0, jit=jit, **given)


def test_what_a_dataset_gives_is_compared_with_the_model_before_it_trains():
    def batches(*data):
        return tf.data.Dataset.from_tensor_slices(data if len(data) > 1 else data[0]).batch(8)

    narrow, alone = batches(X[:, :4], Y), batches(X)
    for given in dict(x=narrow), dict(x=X, y=Y, validation_data=narrow):
        with pytest.raises(ValueError, match="must fit the model.*Received: "):
            tl.fit(network(), verbose=0, **given)
    with pytest.raises(ValueError, match="needs labels.*Received: y=None"):
        tl.fit(network(), alone, verbose=0)


def test_wrong_arguments_are_errors_in_words_of_the_type_that_keras_raises():
    model = network()
    for wrong in dict(epochs=None), dict(epochs="3"), dict(batch_size=8.0), dict(initial_epoch="a"):
        for fit in keras.Model.fit, tl.fit:
            with pytest.raises(TypeError):
                fit(model, X, Y, **{"verbose": 0, **wrong})
    with pytest.raises(TypeError, match="from 0 to 1.*Received: validation_split='a'"):
        tl.fit(model, X, Y, validation_split="a")
    for given in dict(x=X, y=Y, sample_weight=np.ones((ROWS, 4))), dict(x=pairs().map(lambda x, y: (x, y, tf.ones(4))).batch(8)):
        with pytest.raises(ValueError, match="a number a row.*Received: sample_weight of "):
            tl.fit(model, verbose=0, **given)
    with pytest.raises(ValueError, match='Missing data for input "'):
        tl.fit(model, {"another": X}, Y, verbose=0)
    with pytest.raises(ValueError, match="dictionary.*Received: class_weight"):
        tl.fit(model, pairs().batch(8), class_weight=[1, 2, 3])
    with pytest.raises(ValueError, match="from 0 to 2.*Received: y from nan"):
        tl.fit(model, X, np.where(Y == 0, np.nan, Y))


@pytest.mark.parametrize("loss", [{"a": SPARSE, "b": "mse"}, [SPARSE, "mse"], {"a": SPARSE}], ids=["named", "in order", "one"])
def test_labels_of_several_outputs_are_none_of_the_classes(loss):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, [layers.Dense(3, name="a")(inputs), layers.Dense(1, name="b")(inputs)])
    model.compile("sgd", loss)
    labels = [Y + 1, X[:, :1]] if isinstance(loss, list) else {"a": Y + 1, "b": X[:, :1]}
    with pytest.raises(ValueError, match="from 0 to 2.*Received: y from 1 to 3"):
        tl.fit(model, X, labels, verbose=0)


@pytest.mark.parametrize("form", ["arrays", "dataset"])
def test_a_step_of_its_own_may_renumber_labels(form):
    class FromOne(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return super().compute_loss(x, y - 1, y_pred, sample_weight, training)

    data = dict(x=X, y=Y + 1) if form == "arrays" else dict(x=tf.data.Dataset.from_tensor_slices((X, Y + 1)).batch(8))
    models = [network(FromOne), network(FromOne)]
    for fit, model in zip((keras.Model.fit, tl.fit), models):
        fit(model, **data, epochs=2, batch_size=8 if form == "arrays" else None, shuffle=False, verbose=0)
    for ours, theirs in zip(models[1].weights, models[0].weights):
        np.testing.assert_array_equal(ours, theirs)


def twin_of(model):
    """Another model that stands where it stands."""
    twin = keras.models.clone_model(model)
    twin.compile("adam", SPARSE)
    tl.freeze(twin, "body")
    twin.get_layer("body").activation = model.get_layer("body").activation
    twin.set_weights(model.get_weights())
    twin.optimizer.build(twin.trainable_variables)
    for a, b in zip(twin.optimizer.variables, model.optimizer.variables, strict=True):
        a.assign(b)
    return twin


def test_the_frozen_part_is_compiled_once_for_all_fits_and_anew_where_it_changed():
    model, data = network(), dict(x=pairs().batch(8), epochs=2, verbose=0)
    tl.fit(model, **data)
    compiled = dict(functions_of(find_cut(model)))
    assert compiled
    tl.fit(model, validation_data=pairs().batch(5), **data)
    assert functions_of(find_cut(model)) == compiled
    for activation in keras.activations.tanh, keras.activations.softplus:
        model.get_layer("body").activation = activation
        twin = twin_of(model)
        theirs, ours = twin.fit(**data).history, tl.fit(model, **data).history
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)


def of_widths():
    for width in (3, 4, 3, 4):
        yield np.ones((6, width, 5), "float32"), np.zeros(6, "int64")


@pytest.mark.parametrize("way, dataset", [
    ("Pad or crop", tf.data.Dataset.from_generator(
        of_widths, output_signature=(tf.TensorSpec((None, None, 5)), tf.TensorSpec((None,), tf.int64)))),
    ("Take random steps out", tf.data.Dataset.from_tensor_slices((np.repeat(X[:, None], 3, 1), Y)).map(
        lambda x, y: (x + tf.random.normal(tf.shape(x)), y)).batch(6)),
])
def test_what_is_not_cached_names_the_way_that_fits_the_reason(way, dataset):
    inputs = keras.Input((None, 5))
    head = layers.Dense(3)(layers.Dense(8, name="body", trainable=False)(inputs))
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(head))
    model.compile("adam", SPARSE)
    with pytest.warns(UserWarning, match=way):
        tl.fit(model, dataset, epochs=3, verbose=0)


def test_what_a_dataset_says_of_its_shapes_is_known_above_the_cut():
    """Inputs of any height and width: layers above may ask how large the pictures are."""

    class Halves(layers.Layer):
        def call(self, x):
            return sum(x[:, i] for i in range(x.shape[1]))  # in Python

        def compute_output_shape(self, shape):
            return (shape[0], *shape[2:])

    def trained(fit):
        keras.utils.set_random_seed(0)
        pictures = keras.Input((None, None, 3))
        h = layers.Conv2D(4, 3, trainable=False)(pictures)
        h = layers.GlobalAveragePooling1D()(Halves()(layers.Conv2D(4, 1)(h)))
        model = keras.Model(pictures, layers.Dense(2)(h))
        model.compile("sgd", "mse")
        x, y = tf.random.stateless_normal([12, 8, 8, 3], (1, 2)), tf.zeros([12, 2])
        return fit(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(5), epochs=3, verbose=0).history["loss"]

    np.testing.assert_allclose(trained(tl.fit), trained(keras.Model.fit), rtol=1e-5)
