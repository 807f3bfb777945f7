"""Tables of users as they come out of pandas: trained on as Keras trains on them, or refused in words."""
import keras
import numpy as np
import pytest
import transferlit as tl
from keras import layers

from transferlit.data import mark_rows

pandas = pytest.importorskip("pandas")
ROWS = 60
RNG = np.random.default_rng(0)
TABLE = pandas.DataFrame(
    dict(age=RNG.normal(size=ROWS), rooms=RNG.integers(1, 9, ROWS), new=RNG.random(ROWS) < 0.5, town=RNG.choice(["Jeju", "Seoul"], ROWS))
)
SOLD = pandas.Series(RNG.integers(0, 2, ROWS), name="sold")
OWN = TABLE[["age", "rooms", "new"]].astype({"age": "Float64", "rooms": "Int64", "new": "boolean"})
QUIET = dict(epochs=2, batch_size=16, shuffle=False, verbose=0)


def network(columns):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((columns,))
    model = keras.Model(inputs, layers.Dense(1, name="head")(layers.Dense(8, "tanh", name="body")(inputs)))
    model.compile(keras.optimizers.SGD(0.1), keras.losses.BinaryCrossentropy(from_logits=True))
    tl.freeze(model, "body")
    return model


def losses(fit, table, **more):
    return fit(network(table.shape[1]), table, SOLD, **more, **QUIET).history["loss"]


TABLES = {
    "truth values beside floats": TABLE[["age", "rooms", "new"]],
    "dummies": pandas.get_dummies(TABLE),
    "objects beside floats": TABLE[["age", "rooms"]].astype({"rooms": object}),
    "one type": TABLE[["rooms"]],
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_several_types_train_as_in_keras(name):
    table = TABLES[name]
    np.testing.assert_allclose(losses(tl.fit, table), losses(keras.Model.fit, table), rtol=1e-5)


@pytest.mark.parametrize("table", [OWN, TABLE[["rooms", "new"]]], ids=["their own types", "whole numbers and truth values"])
def test_tables_that_keras_does_not_take(table):
    plain = table.astype("float32")
    assert losses(tl.fit, table) == losses(tl.fit, plain)
    held = dict(validation_data=(table[:8], SOLD[:8]))
    assert losses(tl.fit, table, **held) == losses(tl.fit, plain)


@pytest.mark.parametrize("table", [*TABLES.values(), OWN], ids=[*TABLES, "their own types"])
def test_features_of_tables(table):
    model = network(table.shape[1])
    made = tl.precompute(model, table, SOLD, verbose=False)
    body = keras.Model(model.input, model.get_layer("body").output)
    np.testing.assert_allclose(made.arrays[0], body.predict(table.astype("float32"), verbose=0), atol=1e-6)


def test_features_of_columns_by_name_in_another_order():
    """The inputs of the model are a list; columns go by name, whatever comes first in the alphabet."""
    keras.utils.set_random_seed(0)
    town, age = keras.Input((1,), dtype="string", name="town"), keras.Input((1,), name="age")
    lookup = layers.StringLookup(vocabulary=["Jeju", "Seoul"], output_mode="one_hot")
    joined = layers.Concatenate(name="joined")([lookup(town), age])
    model = keras.Model([town, age], layers.Dense(1, name="head")(joined))
    made = tl.precompute(model, dict(TABLE[["age", "town"]]), SOLD, verbose=False)
    np.testing.assert_allclose(made.arrays[0][:, -1], TABLE["age"].astype("float32"))
    np.testing.assert_array_equal(made.arrays[0][:, 1], TABLE["town"] == "Jeju")


@pytest.mark.parametrize(
    "column, said",
    [
        (pandas.Series(pandas.date_range("2024", periods=ROWS)), "dayofyear.*Received: an array of datetime64"),
        (pandas.Series([1, 2, None] * (ROWS // 3), dtype=object), r"astype\(\"float32\"\).*Received: an array of object"),
        (TABLE[["town", "age"]], r"as `dict\(frame\)` does.*Received: x without one in 60 places"),
    ],
    ids=["dates", "objects", "texts beside numbers"],
)
def test_what_is_no_number_is_said(column, said):
    with pytest.raises(ValueError, match=said):
        losses(tl.fit, column.to_frame() if column.ndim == 1 else column)


@pytest.mark.parametrize("call", [lambda model: tl.fit(model, "photos", **QUIET), lambda model: tl.precompute(model, "photos")], ids=["fit", "precompute"])
def test_the_name_of_a_folder_is_no_data(call):
    with pytest.raises(ValueError, match="image_dataset_from_directory.*Received: the path 'photos'"):
        call(network(3))


def test_rows_of_many_texts_are_told_apart():
    """By all of their texts, however many there are."""
    texts = np.full((2, 1500), b"word", object)
    texts[1, 700] = b"other"
    assert len(set(mark_rows(texts).tolist())) == 2
    assert len(mark_rows(texts[:0])) == 0
