"""Bodies that people use: split, stored and trained on what was stored, they are what Keras makes of the whole model.

Weights are random. TRANSFERLIT_BACKBONES=all takes five bodies of `keras.applications`; two of them are the default.
"""
import os

import keras
import numpy as np
import pytest
from keras import layers as L

from transferlit.cut import split
from transferlit.features import precompute

BODIES = {"MobileNetV2": "block_14_add", "EfficientNetB0": "block6a_project_bn", "ResNet50V2": "conv4_block6_out",
          "DenseNet121": "pool4_pool", "ConvNeXtTiny": "convnext_tiny_stage_2_block_8_identity"}
SOME = list(BODIES) if os.environ.get("TRANSFERLIT_BACKBONES") == "all" else list(BODIES)[:2]
ROWS, SIDE, CLASSES = 8, 32, 3


def picture_model(name, thawed):
    """A body below a head that trains; with `thawed` the top of the body trains too."""
    keras.utils.set_random_seed(0)
    body = getattr(keras.applications, name)(input_shape=(SIDE, SIDE, 3), include_top=False, weights=None, pooling="avg")
    body.trainable = False
    if thawed:
        names = [layer.name for layer in body.layers]
        for layer in body.layers[names.index(BODIES[name]) + 1:]:
            layer.trainable = not isinstance(layer, (L.BatchNormalization, L.Dropout))
    start = keras.Input((SIDE, SIDE, 3))
    return keras.Model(start, L.Dense(CLASSES, name="head")(body(start)))


def pictures():
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (ROWS, SIDE, SIDE, 3)).astype("float32"), rng.integers(0, CLASSES, ROWS)


def encoder():
    """A small transformer block over words, the first block frozen."""
    keras.utils.set_random_seed(0)
    words = keras.Input((10,), dtype="int32")
    h = L.Embedding(50, 16, mask_zero=True, trainable=False)(words)
    for block in range(2):
        seen = L.MultiHeadAttention(2, 8, trainable=block > 0, name=f"attention{block}")(h, h)
        h = L.LayerNormalization(trainable=block > 0, name=f"norm{block}")(h + seen)
    return keras.Model(words, L.Dense(CLASSES, name="head")(L.GlobalAveragePooling1D()(h)))


def sentences():
    rng = np.random.default_rng(0)
    words = rng.integers(1, 50, (ROWS, 10)).astype("int32")
    words[:, 7:] *= rng.integers(0, 2, (ROWS, 1), "int32")  # some end early
    return words, rng.integers(0, CLASSES, ROWS)


def arrays(made):
    return [keras.ops.convert_to_numpy(t) for t in keras.tree.flatten(made)]


def one(items):
    return items[0] if len(items) == 1 else items


def the_parts_are_the_model(model, x, **how):
    cut = split(model, **how)
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(made) for made in (cut.upper(one(list(map(keras.ops.convert_to_tensor, arrays(cut.lower(x)))))), model(x))))
    return cut


def training_on_the_cache_is_training(model, x, y, store, tolerance):
    """Keras' `fit` on both, without shuffling; eager, as it would take longer to compile than to train so little."""
    start, ends = model.get_weights(), []
    made = precompute(model, x, y, store=store, verbose=False)
    for net, data in (model, x), (made.split.upper, one(list(map(np.asarray, made.arrays)))):
        model.set_weights(start)
        net.compile(keras.optimizers.SGD(0.01, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        net.fit(data, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        ends.append(model.get_weights())
    assert any((a != b).any() for a, b in zip(start, ends[0]))
    for a, b in zip(*ends):
        assert np.abs(a - b).max() <= tolerance * max(1, np.abs(a).max())
    model.set_weights(start)
    assert precompute(model, x, y, store=store, verbose=False).note.startswith("Reused")


@pytest.mark.parametrize("name", SOME)
def test_frozen_body(name, tmp_path):
    """What differs is rounding: features are made in batches of another size than those of `fit`."""
    model, (x, y) = picture_model(name, thawed=False), pictures()
    cut = the_parts_are_the_model(model, x, inference=True)
    assert [row["layer"] for row in cut.reasons] == ["head"] and len(cut.boundary) == 1
    training_on_the_cache_is_training(model, x, y, tmp_path, 1e-4)


@pytest.mark.parametrize("name", SOME)
def test_body_that_trains_at_the_top(name):
    """The cut goes through the body, wherever fewest bytes cross below what trains."""
    cut = the_parts_are_the_model(model := picture_model(name, thawed=True), pictures()[0], inference=True)
    assert all("/" in b.name for b in cut.boundary) and any("/" in row["layer"] for row in cut.reasons)
    assert {id(v) for v in cut.upper.trainable_variables} == {id(v) for v in model.trainable_variables}


def test_attention(tmp_path):
    model, (x, y) = encoder(), sentences()
    cut = the_parts_are_the_model(model, x)
    assert any(b.name.endswith(".mask") for b in cut.boundary)
    training_on_the_cache_is_training(model, x, y, tmp_path, 1e-5)
