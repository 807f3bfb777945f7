"""Files of Keras 1, and those that Keras on Theano wrote: written by hand as they lay on disk, revived, compared with the sums written out."""
import json

import h5py
import numpy as np
import pytest
import tensorflow as tf

import transferlit as tl

RNG = np.random.default_rng(1)
TRAINING = dict(trainable=True, W_regularizer=dict(name="WeightRegularizer", l1=0., l2=.01), b_regularizer=None, W_constraint=None, b_constraint=None, init="glorot_uniform")


def numbers(*shape): return (.4*RNG.normal(size=shape)).astype("float32")


def layer(kind, shape=None, **config):
    given = dict(batch_input_shape=[None, *shape], input_dtype="float32") if shape else {}
    return dict(class_name=kind, config={"name": "one", **TRAINING, **given, **config})


def written(path, layers, weights=(), version="1.2.2", backend="tensorflow", kind="Sequential"):
    with h5py.File(path, "w") as file:
        file.attrs.update(keras_version=version, backend=backend, model_config=json.dumps(dict(class_name=kind, config=layers)))
        top = file.create_group("model_weights")
        top.attrs["layer_names"] = [b"one"]
        group = top.create_group("one")
        group.attrs["weight_names"] = [f"one_{i:02}".encode() for i in range(len(weights))]
        for i, array in enumerate(weights): group[f"one_{i:02}"] = array
    return path


def computed(path, x): return np.asarray(tl.revive(path).to_keras()(x))


def convolution(**more): return dict(nb_filter=4, nb_row=3, nb_col=2, activation="relu", border_mode="same", subsample=[1, 1], bias=True, **more)


@pytest.mark.parametrize("backend", ["tensorflow", "theano"])
@pytest.mark.parametrize("order", ["tf", "th"])
def test_a_convolution(order, backend, tmp_path):
    kernel, bias, x = numbers(3, 2, 5, 4), numbers(4), numbers(2, 6, 7, 5)
    expected = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias).numpy()
    held = kernel[::-1, ::-1] if backend == "theano" else kernel
    if order == "th": held, x, expected = held.transpose(3, 2, 0, 1), x.transpose(0, 3, 1, 2), expected.transpose(0, 3, 1, 2)
    path = written(tmp_path/"m.h5", [layer("Convolution2D", x.shape[1:], **convolution(dim_ordering=order))], [held, bias], backend=backend)
    np.testing.assert_allclose(computed(path, x), expected, atol=1e-5)


@pytest.mark.parametrize("oldest", [False, True])
def test_a_convolution_of_sequences(oldest, tmp_path):
    kernel, bias, x = numbers(3, 5, 4), numbers(4), numbers(2, 7, 5)
    held = kernel.transpose(2, 1, 0)[..., None] if oldest else kernel[:, None]
    config = layer("Convolution1D", (7, 5), nb_filter=4, filter_length=3, activation="linear", border_mode="valid", subsample_length=2, bias=True)
    path = written(tmp_path/"m.h5", [config], [held, bias])
    np.testing.assert_allclose(computed(path, x), tf.nn.conv1d(x, kernel, 2, "VALID") + bias, atol=1e-5)


def hard(x): return np.clip(.2*x + .5, 0, 1)


def lstm(x, w):
    h = c = np.zeros((len(x), 4), "float32")
    for t in range(x.shape[1]):
        i, new, f, o = (x[:, t]@w[3*g] + h@w[3*g + 1] + w[3*g + 2] for g in range(4))
        c = hard(f)*c + hard(i)*np.tanh(new)
        h = hard(o)*np.tanh(c)
    return h


def gru(x, w):
    h = np.zeros((len(x), 4), "float32")
    for t in range(x.shape[1]):
        z, r, new = (x[:, t]@w[3*g] + w[3*g + 2] for g in range(3))
        z, r = hard(z + h@w[1]), hard(r + h@w[4])
        h = z*h + (1 - z)*np.tanh(new + (r*h)@w[7])
    return h


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("kind, expected, gates", [("LSTM", lstm, 4), ("GRU", gru, 3)])
def test_a_recurrent_layer(kind, expected, gates, both_ways, tmp_path):
    def weights(): return [numbers(*s) for _ in range(gates) for s in ((3, 4), (4, 4), (4,))]
    config = dict(output_dim=4, inner_init="orthogonal", forget_bias_init="one", activation="tanh", inner_activation="hard_sigmoid", dropout_W=.2,
                  dropout_U=0., U_regularizer=None, return_sequences=False, go_backwards=False, stateful=False, unroll=False, consume_less="cpu")
    x, one, two = numbers(2, 5, 3), weights(), weights()
    inner = layer(kind, None if both_ways else (5, 3), **config)
    outer = dict(class_name="Bidirectional", config=dict(name="one", merge_mode="concat", layer=inner, batch_input_shape=[None, 5, 3], input_dtype="float32"))
    path = written(tmp_path/"m.h5", [outer if both_ways else inner], one + two if both_ways else one)
    told = np.hstack([expected(x, one), expected(x[:, ::-1], two)]) if both_ways else expected(x, one)
    np.testing.assert_allclose(computed(path, x), told, atol=1e-5)


@pytest.mark.parametrize("kind, config", [("MaxPooling2D", dict(pool_size=[2, 2], strides=[2, 2], border_mode="valid")), ("GlobalAveragePooling2D", {}),
                                          ("ZeroPadding2D", dict(padding=[1, 2])), ("UpSampling2D", dict(size=[2, 1]))])
def test_channels_come_first_where_the_file_says_so(kind, config, tmp_path):
    x = numbers(2, 4, 4, 4) # of equal sizes: no error tells
    first, last = (computed(written(tmp_path/f"{o}.h5", [layer(kind, (4, 4, 4), dim_ordering=o, **config)]), x) for o in ("th", "tf"))
    turned = computed(tmp_path/"tf.h5", x.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(first, turned.transpose(0, 3, 1, 2) if turned.ndim == 4 else turned, atol=1e-6)
    assert first.shape != last.shape or not np.allclose(first, last)


def joined(x, y, mode):
    return dict(sum=x + y, mul=x*y, ave=(x + y)/2, max=np.maximum(x, y), concat=np.hstack([x, y]), dot=(x*y).sum(1, keepdims=True),
                cos=(x*y).sum(1, keepdims=True)/np.linalg.norm(x, axis=1, keepdims=True)/np.linalg.norm(y, axis=1, keepdims=True))[mode]


@pytest.mark.parametrize("mode", ["sum", "mul", "ave", "max", "concat", "dot", "cos"])
def test_a_merge(mode, tmp_path):
    def entry(kind, name, calls, **config): return dict(class_name=kind, name=name, config=dict(name=name, **config), inbound_nodes=calls)
    inputs = [entry("InputLayer", n, [], batch_input_shape=[None, 4], input_dtype="float32", sparse=False) for n in "ab"]
    merge = entry("Merge", "one", [[["a", 0, 0], ["b", 0, 0]]], mode=mode, mode_type="raw", concat_axis=-1, dot_axes=-1, arguments={})
    model = dict(name="model_1", layers=[*inputs, merge], input_layers=[["a", 0, 0], ["b", 0, 0]], output_layers=[["one", 0, 0]])
    x, y = numbers(2, 4), numbers(2, 4)
    np.testing.assert_allclose(computed(written(tmp_path/"m.h5", model, kind="Model"), [x, y]), joined(x, y, mode), atol=1e-5)


def test_rows_normalized_by_themselves_are_refused(tmp_path):
    config = layer("BatchNormalization", (4,), axis=-1, mode=1, epsilon=1e-3, momentum=.99, beta_init="zero", gamma_init="one")
    with pytest.raises(ValueError, match="mode=1"): tl.revive(written(tmp_path/"m.h5", [config], [numbers(4) for _ in range(4)]))


@pytest.mark.parametrize("nested", [False, True])
def test_kernels_of_keras_2_on_theano_are_turned(nested, tmp_path):
    kernel, bias, x = numbers(3, 3, 2, 4), numbers(4), numbers(2, 6, 6, 2)
    inner = dict(class_name="Conv2D", config=dict(name="inner" if nested else "one", filters=4, kernel_size=[3, 3], padding="same", data_format="channels_last",
                                                  batch_input_shape=[None, 6, 6, 2], dtype="float32"))
    path = written(tmp_path/"m.h5", [dict(class_name="Sequential", config=dict(name="one", layers=[inner]))] if nested else [inner],
                   [kernel[::-1, ::-1], bias], version="2.0.6", backend="theano")
    np.testing.assert_allclose(computed(path, x), tf.nn.conv2d(x, kernel, 1, "SAME") + bias, atol=1e-5)
