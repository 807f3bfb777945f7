"""What the key of features sees: code behind code, objects, data that code reads; and views of a pipeline."""
import builtins
import decimal
import enum
import functools
import importlib
import io
import math
import sys
import threading
import types
import weakref
from pathlib import Path

import keras
import numpy as np
import pandas
import pytest
import tensorflow as tf
from keras import layers as L

from transferlit.cut import fingerprints, lower, split
from transferlit.cut.fingerprints import fingerprint, told_of
from transferlit.cut.values import Reading
from transferlit.features import Features, precompute

X = np.random.default_rng(0).normal(size=(96, 6)).astype("float32")
Y = np.arange(96) % 3
FACTOR, TABLE, WORDS, helpers = 2.0, {"by": 2.0}, {2}, types.ModuleType("somebodys_helpers")
exec("BY = 2.0\ndef inner(t): return t * BY\ndef outer(t): return inner(t)", vars(helpers))
for function in (helpers.inner, helpers.outer):
    function.__module__ = "somebodys_helpers"


class Scale:
    by = 1.0

    def __init__(self, own):
        self.own = own

    def apply(self, t):
        return t * self.own * self.by


class Slotted:
    __slots__ = ("own",)

    def __init__(self, own):
        self.own = own

    def __call__(self, t):
        return t * self.own


class Weights(dict):
    """Holds a number beside its items."""


class Measured(float):
    """Holds a number beside itself."""


class Kind(type):
    by = 2.0


class Of(metaclass=Kind):
    """Has what its metaclass has."""


class Mode(enum.Enum):
    LOW, HIGH = 2.0, 3.0


class Held(L.Layer):
    """Hands its work to whatever it was given."""

    def __init__(self, work, **kwargs):
        super().__init__(**kwargs)
        self.work = work

    def call(self, t):
        work = self.work
        return t * float(sum(work)) if isinstance(work, set) else work(t)


class Worked:
    @functools.cached_property
    def by(self):
        return 2.0

    def __call__(self, t):
        return t * self.by


class Descriptor:
    value = 2.0

    def __get__(self, instance, owner=None):
        return self.value

    def __set__(self, instance, value):
        self.value = value


class Described:
    by = Descriptor()

    def __call__(self, t):
        return t * self.by


class Named(L.Layer):
    """A private name that begins as TensorFlow's own do."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._self_attention_scale = 2.0

    def call(self, t):
        return t * self._self_attention_scale


def calling(by):
    """An object whose call is compiled; the code is another, the name of its class is not."""
    class Compiled:
        @tf.function
        def __call__(self, t):
            return t * 2.0 if by == 2.0 else t * 3.0

    class Partial:
        def scale(self, t, by):
            return t * by
        __call__ = functools.partialmethod(scale, by=by)
    return Compiled(), Partial()


def put_into(place, name, value):
    """As `setattr`, until the test is over."""
    PUT.append((place, name, getattr(place, name)))
    setattr(place, name, value)


def multiply(t, *, by=2.0):
    return t * by


def through_a_global(t):
    return multiply_by_factor(t)


def multiply_by_factor(t):
    return t * FACTOR


@functools.wraps(multiply_by_factor)
def wrapped(t):
    return multiply_by_factor(t)


def put(name, value):
    return lambda layer: globals().__setitem__(name, value)


def with_attribute(made):
    made.by = 2.0
    return made


SCALE, MODE, MULTIPLY, OWN, KEPT = Scale(2.0), [Mode.LOW], multiply, threading.local(), io.StringIO("2.0")
FILE, OPENED = Path(__file__), open(__file__)
OWN.by, builtins.somebodys_factor, NAMED = 2.0, 2.0, "by"
WEAK, PROXY, TABLES = weakref.ref(SCALE), weakref.proxy(SCALE), weakref.WeakKeyDictionary({SCALE: 2.0})
MASKED, OBJECTS, FRAME = np.ma.masked_array([2.0, 3.0], [False, True]), np.array([SCALE]), pandas.DataFrame({"by": [2.0]})
PACKED = FRAME.copy()
PUT, STATE, VIEWED = [], {"by": 2.0}, {"by": 2.0}
VIEW = types.MappingProxyType(VIEWED)
helpers.__getattr__ = lambda name: STATE[name] if name in STATE else getattr(None, name)
np.somebodys, BY_ITEMS, BY_ITSELF, PART = 2.0, with_attribute(Weights()), with_attribute(Measured()), with_attribute(functools.partial(len))
KINDS = {  # a layer, and what changes behind it
    "keyword-only default": (lambda: L.Lambda(lambda t, *, by=2.0: t * by), lambda l: l.function.__kwdefaults__.update(by=3.0)),
    "default of a helper": (lambda: L.Lambda(lambda t: multiply(t)), lambda l: multiply.__kwdefaults__.update(by=3.0)),
    "a global": (lambda: L.Lambda(lambda t: t * FACTOR), put("FACTOR", 3.0)),
    "a global behind two helpers": (lambda: L.Lambda(lambda t: through_a_global(t)), put("FACTOR", 3.0)),
    "a global behind a decorator": (lambda: L.Lambda(wrapped), put("FACTOR", 3.0)),
    "a dictionary": (lambda: L.Lambda(lambda t: t * TABLE["by"]), lambda l: TABLE.update(by=3.0)),
    "a set": (lambda: L.Lambda(lambda t: t * float(sum(WORDS))), lambda l: WORDS.add(7)),
    "a module of one's own": (lambda: L.Lambda(lambda t: helpers.outer(t)), lambda l: setattr(helpers, "BY", 3.0)),
    "a method": (lambda: L.Lambda(Scale(2.0).apply), lambda l: setattr(l.function.__self__, "own", 3.0)),
    "a class behind an object": (lambda: L.Lambda(lambda t: SCALE.apply(t)), lambda l: setattr(Scale, "by", 3.0)),
    "slots": (lambda: L.Lambda(Slotted(2.0)), lambda l: setattr(l.function, "own", 3.0)),
    "a member": (lambda: L.Lambda(lambda t: t * MODE[0].value), lambda l: MODE.__setitem__(0, Mode.HIGH)),
    "a partial": (lambda: L.Lambda(functools.partial(multiply, by=2.0)), lambda l: setattr(l, "function", functools.partial(multiply, by=3.0))),
    "a partial as activation": (lambda: L.Dense(6, functools.partial(multiply, by=2.0)), lambda l: setattr(l, "activation", functools.partial(multiply, by=3.0))),
    "an object as activation": (lambda: L.Dense(6, Slotted(2.0)), lambda l: setattr(l.activation, "own", 3.0)),
    "a function in a closure": (lambda: (lambda f: L.Lambda(lambda t: f(t)))((lambda held: lambda t: t * held[0])([2.0])),
                                lambda l: l.function.__closure__[0].cell_contents.__closure__[0].cell_contents.__setitem__(0, 3.0)),
    "a layer in a closure": (lambda: (lambda inner: L.Lambda(lambda t: inner(t)))(L.LeakyReLU(0.3)),
                             lambda l: setattr(l.function.__closure__[0].cell_contents, "negative_slope", 0.9)),
    "an object held by a layer": (lambda: Held(Slotted(2.0)), lambda l: setattr(l.work, "own", 3.0)),
    "a set held by a layer": (lambda: Held({1, 2}), lambda l: l.work.add(9)),
    "a lambda held by a layer": (lambda: Held(lambda t: t * 2.0), lambda l: setattr(l, "work", lambda t: t * 3.0)),
    "a dtype policy": (lambda: L.Dense(6), lambda l: setattr(l, "dtype_policy", keras.DTypePolicy("mixed_bfloat16"))),
    "a thread's own": (lambda: L.Lambda(lambda t: t * OWN.by), lambda l: setattr(OWN, "by", 3.0)),
    "behind a weak reference": (lambda: L.Lambda(lambda t: t * WEAK().own), lambda l: setattr(SCALE, "own", 3.0)),
    "behind a proxy": (lambda: L.Lambda(lambda t: t * PROXY.own), lambda l: setattr(SCALE, "own", 3.0)),
    "under a weak key": (lambda: L.Lambda(lambda t: t * TABLES[SCALE]), lambda l: TABLES.update({SCALE: 3.0})),
    "a text kept as a file": (lambda: L.Lambda(lambda t: t * float(KEPT.getvalue())), lambda l: (KEPT.seek(0), KEPT.write("3.0"))),
    "an attribute of a dictionary": (lambda: L.Lambda(lambda t: t * BY_ITEMS.by), lambda l: setattr(BY_ITEMS, "by", 3.0)),
    "an attribute of a number": (lambda: L.Lambda(lambda t: t * BY_ITSELF.by), lambda l: setattr(BY_ITSELF, "by", 3.0)),
    "an attribute of a partial": (lambda: L.Lambda(lambda t: t * PART.by), lambda l: setattr(PART, "by", 3.0)),
    "a metaclass": (lambda: L.Lambda(lambda t: t * Of.by), lambda l: setattr(Kind, "by", 3.0)),
    "a mask": (lambda: L.Lambda(lambda t: t * float(MASKED.sum())), lambda l: setattr(MASKED, "mask", [True, False])),
    "an object in an array": (lambda: L.Lambda(lambda t: t * OBJECTS[0].own), lambda l: setattr(SCALE, "own", 3.0)),
    "a data frame": (lambda: L.Lambda(lambda t: t * float(FRAME["by"].iloc[0])), lambda l: FRAME.__setitem__("by", [3.0])),
    "a builtin of one's own": (lambda: L.Lambda(lambda t: t * somebodys_factor), lambda l: setattr(builtins, "somebodys_factor", 3.0)),
    "a value put into a library": (lambda: L.Lambda(lambda t: t * np.somebodys), lambda l: setattr(np, "somebodys", 3.0)),
    "a name that is worked out": (lambda: L.Lambda(lambda t: t * getattr(helpers, NAMED.upper())), lambda l: setattr(helpers, "BY", 3.0)),
    "a value that settings do not tell": (lambda: L.ELU(), lambda l: setattr(l, "alpha", 3.0)),
    "a function in a library's place": (lambda: L.Lambda(lambda t: keras.ops.tanh(t)), lambda l: put_into(keras.ops, "tanh", lambda t: t * 3.0)),
    "a function of a library's part": (lambda: L.Lambda(lambda t: tf.nn.relu(t)), lambda l: put_into(tf.nn, "relu", lambda t: t * 3.0)),
    "a ufunc": (lambda: L.Lambda(lambda t: t * np.float32(np.tanh(1.0))), lambda l: put_into(np, "tanh", lambda t: 3.0)),
    "a method in a library's place": (lambda: L.Lambda(lambda t: t * float(PACKED["by"].iloc[0])), lambda l: put_into(pandas.DataFrame, "__getitem__", lambda self, n: pandas.Series([3.0]))),
    "a property that is worked out once": (lambda: Held(Worked()), lambda l: setattr(l.work, "by", 3.0)),
    "a descriptor": (lambda: Held(Described()), lambda l: setattr(l.work, "by", 3.0)),
    "a module's names that are worked out": (lambda: L.Lambda(lambda t: t * helpers.by), lambda l: STATE.update(by=3.0)),
    "a compiled call": (lambda: Held(calling(2.0)[0]), lambda l: setattr(l, "work", calling(3.0)[0])),
    "a call with an argument given": (lambda: Held(calling(2.0)[1]), lambda l: setattr(l, "work", calling(3.0)[1])),
    "a name like TensorFlow's": (Named, lambda l: setattr(l, "_self_attention_scale", 3.0)),
    "a view of a dictionary": (lambda: L.Lambda(lambda t: t * VIEW["by"]), lambda l: VIEWED.update(by=3.0)),
    "a method of one layer": (lambda: L.Dense(6), lambda l: setattr(l, "call", types.MethodType(lambda self, t, training=None: t * 3.0, l))),
}


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    while PUT:
        setattr(*PUT.pop())
    STATE["by"] = VIEWED["by"] = 2.0
    Described.by = Descriptor()
    globals().update(FACTOR=2.0, TABLE={"by": 2.0}, WORDS={2}, MODE=[Mode.LOW])
    multiply.__kwdefaults__["by"] = helpers.BY = 2.0
    Scale.by, SCALE.own, OWN.by, Kind.by, MASKED.mask, builtins.somebodys_factor = 1.0, 2.0, 2.0, 2.0, [False, True], 2.0
    BY_ITEMS.by = BY_ITSELF.by = PART.by = np.somebodys = 2.0
    TABLES[SCALE], FRAME["by"] = 2.0, [2.0]
    KEPT.seek(0), KEPT.write("2.0")


def model_on(layer):
    keras.utils.set_random_seed(0)
    start = keras.Input((6,))
    made = keras.Model(start, L.Dense(3, name="head")(L.Dense(8, "tanh", name="body")(layer(start))))
    layer.trainable = made.get_layer("body").trainable = False
    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_the_key_sees(kind, tmp_path):
    make, change = KINDS[kind]
    layer = make()
    model = model_on(layer)
    before = precompute(model, X, store=tmp_path, verbose=False)
    assert precompute(model, X, store=tmp_path, verbose=False).note.startswith("Reused")
    change(layer)
    truth = np.asarray(lower(model, "body")(X))
    assert np.abs(truth - before.arrays[0]).max() > 1e-3
    after = precompute(model, X, store=tmp_path, verbose=False)
    assert after.key != before.key
    np.testing.assert_allclose(np.asarray(after.arrays[0]), truth, atol=1e-5)


def test_a_lambda_from_a_file_is_somebodys_own(tmp_path):
    def saved(by):
        path = tmp_path / f"{by}.keras"
        keras.Sequential([keras.Input((6,)), L.Lambda(lambda t: t * by, name="scale"), L.Dense(4, trainable=False), L.Dense(2)]).save(path)
        keras.utils.set_random_seed(0)
        return keras.models.load_model(path, safe_mode=False)
    one, other = (precompute(saved(by), X, verbose=False) for by in (2.0, 3.0))
    assert one.parts["layers"][0][1] != other.parts["layers"][0][1]


def test_what_cannot_be_seen_is_noted_and_compared(tmp_path):
    file = tmp_path / "scale"
    file.write_text("2.0")
    model = model_on(L.Lambda(lambda t: t * float(open(file).read())))
    first = precompute(model, X, store=tmp_path / "store", verbose=False)
    assert "cannot see what `open` reads" in first.note and "`open`" not in precompute(model_on(L.ReLU()), X, verbose=False).note
    file.write_text("3.0")
    with pytest.raises(ValueError, match="what the model makes"):
        first.verify(1)
    assert "not what the model makes now" in precompute(model, X, store=tmp_path / "store", verbose=False).note


UNSEEN = {
    "`load`": lambda t: t * float(np.load("factor.npy")),
    "`read_text`": lambda t: t * float(FILE.read_text()),
    "`read_file`": lambda t: t * tf.strings.to_number(tf.io.read_file("factor")),
    "`globals`": lambda t: t * globals()["FACTOR"],
    "`eval`": lambda t: t * eval("FACTOR"),
    "`sys`": lambda t: t * sys.modules[__name__].FACTOR,
    "`importlib`": lambda t: t * importlib.import_module(__name__).FACTOR,
    "the open file": lambda t: t * len(OPENED.name),
    "`numpy`": lambda t: t * np.random.normal(),
    "`decimal`": lambda t: t * float(decimal.Decimal(1) / 3),
}


@pytest.mark.parametrize("what", UNSEEN)
def test_ways_around_the_key_are_noted(what):
    assert what in " ".join(recipe(UNSEEN[what]))
    assert not recipe(lambda t: t * FACTOR + math.pi * np.float32(2))


def test_what_lies_too_deep_is_noted():
    held = Slotted(2.0)
    for _ in range(2000):
        held = Slotted(held)
    layer = L.Lambda(lambda t, held=held: t * 2.0)
    assert "cannot see `own` (a Slotted)" in precompute(model_on(layer), X, verbose=False).note


@pytest.mark.parametrize("layer, name, value", [
    (L.ELU(), "alpha", 2.0), (L.Flatten(), "_channels_first", True), (L.CategoryEncoding(5), "sparse", True),
    (L.Bidirectional(L.LSTM(2)), "return_sequences", True), (L.LSTMCell(2), "implementation", 1),
])
def test_values_set_on_layers_of_keras_are_seen(layer, name, value):
    before = told_of(layer)
    assert told_of(type(layer).from_config(layer.get_config())) == before
    setattr(layer, name, value)
    assert told_of(layer) != before


def test_how_products_are_computed_is_seen():
    model, exact = model_on(L.ReLU()), tf.config.experimental.tensor_float_32_execution_enabled()
    before = fingerprint(model)
    try:
        tf.config.experimental.enable_tensor_float_32_execution(not exact)
        assert fingerprint(model) != before
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(exact)
    assert fingerprint(model) == before


def test_what_a_backend_says_of_products_is_no_setting_of_a_layer(monkeypatch):
    "Else features of one backend would never be found on another."
    from transferlit.features import key

    cut = split(model_on(L.ReLU()))
    ours, theirs = [], []
    for made, precision in (ours, True), (theirs, "highest"):
        for module in key, fingerprints:
            monkeypatch.setattr(module, "product_precision", lambda said=precision: said, raising=False)
        made.append({**key.model_parts(cut), "versions": key.library_versions()})
    assert key.differ_by_backend(*ours, *theirs)


def recipe(function):
    reading = Reading()
    reading.read(function)
    return reading.unseen


def test_a_text_alone_is_seen():
    """As TextVectorization keeps one."""
    assert recipe(tf.constant("one")) == []


def test_rows_compared_on_reuse_are_the_telling_ones(tmp_path):
    """A limit that only the largest values reach, changed where no key can see it."""
    x, file = X.copy(), tmp_path / "limit"
    x[41] *= 9
    file.write_text("8.0")
    model = model_on(L.Lambda(lambda t: keras.ops.minimum(t, float(open(file).read()))))
    model.get_layer("body").activation = keras.activations.linear
    precompute(model, x, store=tmp_path / "store", verbose=False)
    file.write_text("9.0")
    assert x.max() > 9
    again = precompute(model, x, store=tmp_path / "store", verbose=False)
    np.testing.assert_allclose(np.asarray(again.arrays[0]), np.asarray(lower(model, "body")(x)), atol=1e-5)


def flip(x, seed):
    rng = np.random.default_rng(seed)
    return keras.tree.map_structure(lambda a: a + rng.normal(0, 0.1, a.shape).astype("float32"), x)


class Jitter(Slotted):
    def __call__(self, x, seed):
        return x + self.own * np.random.default_rng(seed).normal(size=x.shape).astype("float32")


def test_the_key_sees_what_augments(tmp_path):
    how = Jitter(0.1)
    model = model_on(L.ReLU())
    one = precompute(model, X, augment=how, verbose=False)
    how.own = 0.2
    assert precompute(model, X, augment=how, verbose=False).key != one.key
    by = [precompute(model, X, augment=functools.partial(flip), verbose=False).key for _ in range(2)]
    assert by[0] == by[1] != one.key


def as_dataset(x, shuffled=False):
    made = tf.data.Dataset.from_tensor_slices((x, Y))
    return (made.shuffle(96, reshuffle_each_iteration=True) if shuffled else made).batch(16)


@pytest.mark.parametrize("augment", [flip, keras.Sequential([L.GaussianNoise(0.1)])], ids=["function", "layers"])
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "disk"])
def test_views_of_a_dataset(augment, stored, tmp_path):
    """Labels once, views in one order, and each row augmented as in any other order."""
    model = model_on(L.ReLU())
    how = dict(views=3, augment=augment, verbose=False, store=tmp_path if stored else None)
    made, mixed = (precompute(model, as_dataset(X, shuffled), **how) for shuffled in (False, not stored))
    assert isinstance(made, Features) and made.n == len(made.y) == 96 and len(made.row_ids) == 96
    views = [np.asarray(made.view(k).arrays[0]) for k in range(3)]
    assert all(np.abs(views[0] - v).max() > 1e-3 for v in views[1:])
    truth = np.asarray(lower(model, "body")(X))
    for k, view in enumerate(views):
        assert np.abs(view - truth).mean() < 0.2, "a row of another place"
        order = np.argsort(np.asarray(mixed.prints))[np.argsort(np.argsort(np.asarray(made.prints)))]
        np.testing.assert_allclose(np.asarray(mixed.view(k).arrays[0])[order], view, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(made.y), Y)
    assert made.verify() < 1e-4


def test_views_of_a_dataset_go_on_in_another_order(tmp_path, monkeypatch):
    from transferlit.store import local
    model, calls, add = model_on(L.ReLU()), [], local.Writer.add
    how = dict(views=2, augment=flip, verbose=False, store=tmp_path, batch_size=16)

    def stopped(self, arrays):
        add(self, arrays)
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(local.Writer, "add", stopped)
    with pytest.raises(KeyboardInterrupt):
        precompute(model, as_dataset(X, True), **how)
    made = precompute(model, as_dataset(X, True), **how)
    assert made.note.startswith("Went on at row 80")
    whole = precompute(model, as_dataset(X), **{**how, "store": None})
    place = np.argsort(np.argsort(np.asarray(whole.prints)))
    for k in range(2):
        np.testing.assert_allclose(np.asarray(made.view(k).arrays[0])[np.argsort(np.asarray(made.prints))][place], whole.view(k).arrays[0], atol=1e-6)
    np.testing.assert_array_equal(np.asarray(made.y)[np.argsort(np.asarray(made.prints))][place], Y)


def test_dictionary_inputs_in_views(tmp_path):
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    half = L.Dense(4, trainable=False, name="body")(L.Concatenate()([a, b]))
    model = keras.Model({"a": a, "b": b}, L.Dense(3)(half))
    x = {"a": X[:, :3], "b": X[:, 3:]}
    pipeline = tf.data.Dataset.from_tensor_slices((x, Y)).batch(16)
    for given in ((x, Y), (pipeline,)):
        made = precompute(model, *given, views=2, augment=flip, verbose=False)
        assert made.n == len(made.y) == 96 and made.verify() < 1e-4


def test_features_of_another_backend_are_taken_within_a_tolerance_only(tmp_path, monkeypatch):
    from transferlit.features import features, key

    model = keras.Sequential([keras.Input((4,)), L.Dense(3, trainable=False), L.Dense(2)])
    x, how = np.ones((9, 4), "float32"), dict(store=tmp_path, verbose=False)
    versions, here = key.library_versions(), keras.backend.backend()
    monkeypatch.setattr(key, "_BACKENDS", (*key._BACKENDS, "another"))
    with monkeypatch.context() as elsewhere:
        there = {"another" if name == here else name: value for name, value in versions.items()}
        elsewhere.setattr(key, "library_versions", lambda: there)
        stored = precompute(model, x, **how)
    make = features.make_rows  # which rounds otherwise here
    monkeypatch.setattr(features, "make_rows", lambda *given: [a + 0.01 for a in make(*given)])
    near = precompute(model, x, tolerance=0.1, **how)
    assert "another backend" in near.note and near.folder == stored.folder
    monkeypatch.setattr(features, "make_rows", lambda *given: [a + 1 for a in make(*given)])
    assert precompute(model, x, tolerance=0.1, **how).note.startswith("Computed")
    monkeypatch.setattr(features, "make_rows", make)
    own = precompute(model, x, tolerance=0.1, **how)  # is there now, and comes first
    assert own.folder != stored.folder and own.note.startswith("Reused") and "another" not in own.note
    for wrong in -1, "near":
        with pytest.raises(ValueError, match="above zero"):
            precompute(model, x, tolerance=wrong, **how)
    with pytest.raises(ValueError, match="lie in a store"):
        precompute(model, x, tolerance=0.1)
