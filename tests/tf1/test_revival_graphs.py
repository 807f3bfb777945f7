"""Old graphs of many kinds, made here by tf.compat.v1, against what they become: the same numbers, on data of our own."""
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import transferlit as tl
from transferlit.paths import by_path

v1 = tf.compat.v1
CASES = {}


def case(native=True, **options):
    """A graph: the function builds it and returns inputs (name to array) and the output's name."""
    def keep(build):
        CASES[build.__name__] = (build, native, options)
        return build
    return keep


@pytest.fixture(autouse=True)
def old_ways():
    v1.disable_control_flow_v2()
    yield
    v1.enable_control_flow_v2()


def rng(): return np.random.default_rng(7)
def floats(*shape): return rng().normal(size=shape).astype("float32")


def get(name, *shape, resource=False, positive=False, dtype="float32"):
    values = np.random.default_rng(abs(hash_of(name))).normal(size=shape)*.5
    values = (np.abs(values) + .3 if positive else values).astype(dtype)
    return v1.get_variable(name, initializer=values, use_resource=resource)


def hash_of(name): return sum(map(ord, name))


def place(name, *shape, dtype=tf.float32): return v1.placeholder(dtype, shape or None, name)


def dense(x, units, name, resource=False):
    with v1.variable_scope(name):
        return tf.nn.bias_add(tf.matmul(x, get("kernel", x.shape[-1], units, resource=resource)), get("bias", units, resource=resource))


def conv(x, filters, name, size=3, strides=1, padding="SAME", **kwargs):
    channels = x.shape[1] if kwargs.get("data_format") == "NCHW" else x.shape[-1]
    with v1.variable_scope(name): return tf.nn.conv2d(x, get("weights", size, size, channels, filters), strides, padding, **kwargs)


# Dense layers and activations

@case()
def dense_with_add():
    x = place("X", None, 6)
    h = tf.nn.relu(tf.matmul(x, get("fc1/W", 6, 5)) + get("fc1/b", 5))
    tf.identity(tf.matmul(h, get("fc2/W", 5, 3)), name="out")
    return {"X": floats(4, 6)}, "out"


@case()
def dense_resource_variables():
    tf.nn.tanh(dense(place("X", None, 6), 4, "hidden", resource=True), name="out")
    return {"X": floats(4, 6)}, "out"


@case()
def dense_transposed():
    tf.matmul(place("X", None, 6), get("tied", 3, 6), transpose_b=True, name="out")
    return {"X": floats(4, 6)}, "out"


@case()
def dense_of_three_dimensions():
    x = place("X", None, 7, 6)
    with v1.variable_scope("time"): tf.nn.relu(tf.nn.bias_add(tf.tensordot(x, get("kernel", 6, 4), [[2], [0]]), get("bias", 4)), name="out")
    return {"X": floats(3, 7, 6)}, "time/out"


@case()
def double_precision():
    x = place("X", None, 5, dtype=tf.float64)
    tf.nn.sigmoid(tf.matmul(x, get("w", 5, 3, dtype="float64")) + get("b", 3, dtype="float64"), name="out")
    return {"X": rng().normal(size=(4, 5))}, "out"


@case()
def weight_normalized():
    v, g = get("v", 6, 3), get("g", 3)
    tf.matmul(place("X", None, 6), tf.nn.l2_normalize(v, 0)*g, name="out")
    return {"X": floats(4, 6)}, "out"


def after_dense(function):
    def build():
        tf.identity(function(dense(place("X", None, 6), 5, "hidden")), name="out")
        return {"X": 3*floats(64, 6)}, "out"
    return build


for name, function in {
    "leaky_by_maximum": lambda z: tf.maximum(.01*z, z),
    "leaky_operation": lambda z: tf.nn.leaky_relu(z, .3),
    "elu_by_hand": lambda z: tf.where(z < 0, .5*(tf.exp(z) - 1), z),
    "selu_by_hand": lambda z: 1.0507009873554805*tf.where(z >= 0., z, 1.6732632423543772*tf.nn.elu(z)),
    "selu_with_swapped_constants": lambda z: 1.6732632423543772*tf.where(z >= 0., z, 1.0507009873554805*tf.nn.elu(z)),
    "swish": lambda z: z*tf.sigmoid(z),
    "gelu_by_hand": lambda z: .5*z*(1 + tf.math.erf(z/np.sqrt(2).astype("float32"))),
    "gelu_by_tanh": lambda z: .5*z*(1 + tf.tanh(.7978845608*(z + .044715*tf.pow(z, 3)))),
    "relu_six_by_hand": lambda z: tf.minimum(tf.maximum(z, 0.), 6.),
    "relu_one_by_hand": lambda z: tf.clip_by_value(z, 0., 1.),
    "hard_sigmoid_of_keras_two": lambda z: tf.clip_by_value(.2*z + .5, 0., 1.),
    "parametric_relu": lambda z: tf.nn.relu(z) + get("alpha", 5)*(z - tf.abs(z))*.5,
    "relu_and_a_factor": lambda z: tf.nn.relu(z)*.5,
    "crelu": lambda z: tf.nn.crelu(z),
    "maxout": lambda z: tf.reduce_max(tf.reshape(tf.concat([z, -z], 1), [-1, 5, 2]), 2),
    "softmax_by_hand": lambda z: tf.exp(z)/tf.reduce_sum(tf.exp(z), 1, keepdims=True),
    "layer_norm_by_hand": lambda z: (z - tf.reduce_mean(z, 1, keepdims=True))*tf.math.rsqrt(tf.math.reduce_variance(z, 1, keepdims=True) + 1e-6)*get("g", 5) + get("b", 5),
    "l2_normalized": lambda z: tf.nn.l2_normalize(z, 1),
    "sine": lambda z: tf.sin(30.*z),
    "step": lambda z: tf.cast(z > 0, tf.float32)*z,
    "log_softmax": lambda z: tf.nn.log_softmax(z),
    "argmax": lambda z: tf.argmax(z, 1),
    "square_and_mean": lambda z: tf.reduce_mean(tf.square(z), 1),
}.items():
    CASES[name] = after_dense(function), True, {}


# Convolutions, pooling, normalization

@case()
def conv_net():
    x = place("images", None, 16, 16, 3)
    h = tf.nn.max_pool2d(tf.nn.relu(tf.nn.bias_add(conv(x, 4, "conv1", strides=2), get("conv1/biases", 4))), 2, 2, "SAME")
    h = tf.nn.avg_pool2d(tf.nn.relu(conv(h, 5, "conv2", padding="VALID") + get("conv2/biases", 5)), 2, 1, "VALID")
    dense(tf.reshape(h, [-1, 5]), 3, "logits")
    return {"images": floats(2, 16, 16, 3)}, "logits/BiasAdd"


@case()
def conv_channels_first():
    h = place("images", None, 3, 12, 12)
    for i in range(2):
        h = tf.nn.relu(tf.nn.bias_add(conv(h, 4, f"conv{i}", data_format="NCHW"), get(f"conv{i}/biases", 4), data_format="NCHW"))
    h = tf.nn.max_pool2d(h, 2, 2, "VALID", data_format="NCHW")
    dense(tf.reshape(h, [-1, 4*6*6]), 3, "logits")
    return {"images": floats(2, 3, 12, 12)}, "logits/BiasAdd"


@case()
def conv_explicit_padding():
    x = tf.pad(place("images", None, 9, 9, 3), [[0, 0], [1, 2], [3, 0], [0, 0]])
    conv(x, 4, "conv", strides=2, padding="VALID")
    return {"images": floats(2, 9, 9, 3)}, "conv/Conv2D"


@case(native=None)
def conv_explicit_padding_inside():
    conv(place("images", None, 9, 9, 3), 4, "conv", padding=[[0, 0], [1, 2], [0, 1], [0, 0]])
    return {"images": floats(2, 9, 9, 3)}, "conv/Conv2D"


@case()
def conv_reflected():
    conv(tf.pad(place("images", None, 9, 9, 3), [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT"), 4, "conv", padding="VALID")
    return {"images": floats(2, 9, 9, 3)}, "conv/Conv2D"


@case()
def conv_dilated_by_space_to_batch():
    x = place("images", None, 12, 12, 3)
    h = tf.nn.space_to_batch(x, [2, 2], [[2, 2], [2, 2]])
    h = tf.nn.bias_add(tf.batch_to_space(conv(h, 4, "conv", padding="VALID"), [2, 2], [[0, 0], [0, 0]]), get("conv/biases", 4))
    tf.nn.relu(h, name="out")
    return {"images": floats(2, 12, 12, 3)}, "out"


@case()
def conv_dilated_operation():
    conv(place("images", None, 12, 12, 3), 4, "conv", dilations=2)
    return {"images": floats(2, 12, 12, 3)}, "conv/Conv2D"


@case()
def conv_of_sequences():
    x = place("X", None, 20, 5)
    with v1.variable_scope("conv1d"): h = tf.nn.relu(tf.nn.bias_add(tf.nn.conv1d(x, get("kernel", 3, 5, 6), 2, "SAME"), get("bias", 6)))
    tf.reduce_max(h, 1, name="out")
    return {"X": floats(3, 20, 5)}, "out"


@case()
def conv_depthwise():
    x = place("images", None, 8, 8, 3)
    with v1.variable_scope("depth"): tf.nn.relu6(tf.nn.depthwise_conv2d(x, get("depthwise_weights", 3, 3, 3, 2), [1, 2, 2, 1], "SAME") + get("biases", 6), name="out")
    return {"images": floats(2, 8, 8, 3)}, "depth/out"


@case()
def conv_separable():
    x = place("images", None, 8, 8, 3)
    with v1.variable_scope("sep"):
        h = tf.nn.separable_conv2d(x, get("depthwise_kernel", 3, 3, 3, 1), get("pointwise_kernel", 1, 1, 3, 5), [1, 1, 1, 1], "SAME")
        tf.nn.relu(tf.nn.bias_add(h, get("bias", 5)), name="out")
    return {"images": floats(2, 8, 8, 3)}, "sep/out"


@case()
def conv_transposed():
    x = place("Z", None, 4, 4, 6)
    with v1.variable_scope("up"):
        shape = tf.stack([tf.shape(x)[0], 8, 8, 3])
        tf.tanh(tf.nn.bias_add(tf.nn.conv2d_transpose(x, get("kernel", 5, 5, 3, 6), shape, 2), get("bias", 3)), name="out")
    return {"Z": floats(2, 4, 4, 6)}, "up/out"


@case()
def conv_of_volumes():
    x = place("X", None, 6, 6, 6, 2)
    h = tf.nn.relu(tf.nn.bias_add(tf.nn.conv3d(x, get("c/kernel", 3, 3, 3, 2, 4), [1]*5, "VALID"), get("c/bias", 4)))
    tf.nn.max_pool3d(h, 2, 2, "SAME", name="out")
    return {"X": floats(2, 6, 6, 6, 2)}, "out"


@case()
def conv_of_volumes_transposed():
    x = place("X", None, 3, 3, 3, 2)
    shape = tf.stack([tf.shape(x)[0], 6, 6, 6, 3])
    tf.nn.relu(tf.nn.bias_add(tf.nn.conv3d_transpose(x, get("up/kernel", 2, 2, 2, 3, 2), shape, 2), get("up/bias", 3)), name="out")
    return {"X": floats(2, 3, 3, 3, 2)}, "out"


@case()
def conv_any_size_and_global_pool():
    x = place("images", None, None, None, 3)
    tf.reduce_mean(tf.nn.relu(conv(x, 4, "conv")), [1, 2], name="out")
    return {"images": floats(2, 11, 13, 3)}, "out"


@case()
def alexnet_normalization():
    h = tf.nn.relu(conv(place("images", None, 8, 8, 3), 8, "conv"))
    tf.nn.lrn(h, 4, bias=1., alpha=.001/9, beta=.75, name="out")
    return {"images": floats(2, 8, 8, 3)}, "out"


@case()
def resized_nearest_and_shuffled():
    h = tf.nn.depth_to_space(conv(place("images", None, 4, 4, 3), 8, "conv"), 2)
    h = v1.image.resize_nearest_neighbor(tf.nn.space_to_depth(h, 4), [6, 6])
    tf.math.divide_no_nan(conv(h, 2, "after"), conv(h, 2, "other"), name="out")
    return {"images": floats(2, 4, 4, 3)}, "out"


@case()
def resized_bilinear():
    h = conv(place("images", None, 8, 8, 3), 4, "conv")
    tf.identity(conv(v1.image.resize_bilinear(h, [16, 16], align_corners=True), 2, "after"), name="out")
    return {"images": floats(2, 8, 8, 3)}, "out"


@case()
def resnet_block():
    x = place("images", None, 8, 8, 4)
    def norm(h, name): return norms["hand"](h, name)
    h = tf.nn.relu(norm(conv(x, 4, "unit1/conv"), "unit1/bn"))
    h = norm(conv(h, 4, "unit2/conv"), "unit2/bn")
    tf.nn.relu(h + x, name="out")
    return {"images": floats(2, 8, 8, 4)}, "out"


def parts(x, name): return [get(f"{name}/{p}", x.shape[-1], positive=p != "beta") for p in ("gamma", "beta", "moving_mean", "moving_variance")]


def by_function(x, name):
    g, b, m, v = parts(x, name)
    return tf.nn.batch_normalization(x, m, v, b, g, 1e-3)


def by_hand(x, name):
    g, b, m, v = parts(x, name)
    return g*(x - m)/tf.sqrt(v + 1e-5) + b


def without_gamma(x, name):
    _, b, m, v = parts(x, name)
    return tf.nn.batch_normalization(x, m, v, b, None, 1e-3)


def plain(x, name):
    _, _, m, v = parts(x, name)
    return (x - m)/tf.sqrt(v + 1e-8)


def fused(x, name):
    g, b, m, v = parts(x, name)
    return v1.nn.fused_batch_norm(x, g, b, m, v, epsilon=1e-3, is_training=False)[0]


def fused_without_scale(x, name):
    _, b, m, v = parts(x, name)
    return v1.nn.fused_batch_norm(x, tf.ones([x.shape[-1]]), b, m, v, epsilon=1e-3, is_training=False)[0]


def reshaped(x, name):
    g, b, m, v = (tf.reshape(p, [1, 1, 1, -1]) for p in parts(x, name))
    return (x - m)*tf.math.rsqrt(v + 1e-3)*g + b


def forked(x, name):
    """As `tf.layers.batch_normalization(training=placeholder)` did it."""
    g, b, m, v = parts(x, name)
    training = place("training", dtype=tf.bool)
    mean, variance = tf.nn.moments(x, list(range(len(x.shape) - 1)))
    mean, variance = v1.cond(training, lambda: mean, lambda: m), v1.cond(training, lambda: variance, lambda: v)
    return tf.nn.batch_normalization(x, mean, variance, b, g, 1e-3)


def forked_fused(x, name):
    g, b, m, v = parts(x, name)
    training = place("is_training", dtype=tf.bool)
    return v1.cond(training, lambda: v1.nn.fused_batch_norm(x, g, b, epsilon=1e-3)[0],
                   lambda: v1.nn.fused_batch_norm(x, g, b, m, v, epsilon=1e-3, is_training=False)[0])


norms = {"function": by_function, "hand": by_hand, "without_gamma": without_gamma, "plain": plain, "fused": fused,
         "fused_without_scale": fused_without_scale, "reshaped": reshaped, "forked": forked,
         "forked_fused": forked_fused}


def normalized(norm):
    def build():
        h = conv(place("images", None, 8, 8, 3), 4, "conv")
        tf.nn.relu(norm(h, "bn"), name="out")
        return {"images": floats(2, 8, 8, 3)}, "out"
    return build


for name, norm in norms.items():
    CASES[f"norm_{name}"] = normalized(norm), True, {"expected": {"BatchNormalization"}}


@case(native=False)
def norm_with_batch_statistics():
    x = dense(place("X", None, 6), 4, "hidden")
    h = tf.reshape(x, [-1, 1, 1, 4])
    tf.nn.relu(v1.nn.fused_batch_norm(h, get("gamma", 4), get("beta", 4), epsilon=1e-3)[0], name="out")
    return {"X": floats(8, 6)}, "out"


# Switches

def after_switch(function, **options):
    def build():
        h = function(tf.nn.relu(dense(place("X", None, 6), 5, "hidden")))
        h.set_shape([None, 5])
        dense(h, 3, "logits")
        return {"X": floats(4, 6)}, "logits/BiasAdd"
    return build, True, options


def first_dropout(x, keep): return x/keep*tf.floor(keep + tf.random.uniform(tf.shape(x)))
def second_dropout(x, rate): return x*(1/(1 - rate))*tf.cast(tf.random.uniform(tf.shape(x)) >= rate, x.dtype)


for name, function in {
    "dropout_of_2016": lambda x: first_dropout(x, place("keep_prob")),
    "dropout_of_2016_scalar": lambda x: first_dropout(x, v1.placeholder(tf.float32, [], "p")),
    "dropout_with_default": lambda x: first_dropout(x, v1.placeholder_with_default(tf.constant(.5), [], "keep")),
    "dropout_of_2019": lambda x: second_dropout(x, place("rate")),
    "dropout_of_today": lambda x: tf.nn.dropout(x, v1.placeholder_with_default(0., [], "rate")),
    "dropout_under_a_fork": lambda x: v1.cond(place("phase", dtype=tf.bool), lambda: second_dropout(x, .5), lambda: tf.identity(x)),
    "dropout_under_a_test_flag": lambda x: v1.cond(v1.placeholder(tf.bool, [], "flag"), lambda: tf.identity(x), lambda: first_dropout(x, .5)),
    "dropout_under_a_fork_with_default": lambda x: v1.cond(v1.placeholder_with_default(False, [], "training"), lambda: second_dropout(x, .5), lambda: x),
    "noise_under_a_fork": lambda x: v1.cond(place("train", dtype=tf.bool), lambda: x + tf.random.normal(tf.shape(x)), lambda: x + 0.),
    "rate_chosen_by_a_fork": lambda x: first_dropout(x, v1.cond(place("train_flag", dtype=tf.bool), lambda: tf.constant(.5), lambda: tf.constant(1.))),
}.items():
    CASES[name] = after_switch(function, unfed=True, kinds=["Dense", "Dense"])
CASES["dropout_always_on"] = after_switch(lambda x: second_dropout(x, .4), unfed=True, random=True, kinds=["Dense", "Dense"])


# Words, several inputs and outputs, shapes

@case(integers=True)
def embedding():
    ids = place("ids", None, 7, dtype=tf.int32)
    h = tf.nn.embedding_lookup(get("embedding", 20, 6), ids)
    dense(tf.reduce_mean(h, 1), 3, "logits")
    return {"ids": rng().integers(0, 20, (4, 7)).astype("int32")}, "logits/BiasAdd"


@case(integers=True)
def embedding_resource():
    ids = place("ids", None, None, dtype=tf.int64)
    h = tf.nn.embedding_lookup(get("table", 20, 6, resource=True), ids)
    dense(tf.reduce_max(h, 1), 3, "logits")
    return {"ids": rng().integers(0, 20, (4, 9))}, "logits/BiasAdd"


@case(integers=True)
def one_hot():
    ids = place("ids", None, dtype=tf.int32)
    dense(tf.one_hot(ids, 12), 3, "logits")
    return {"ids": rng().integers(0, 12, 5).astype("int32")}, "logits/BiasAdd"


@case()
def text_cnn():
    ids = place("input_x", None, 12, dtype=tf.int32)
    h = tf.expand_dims(tf.nn.embedding_lookup(get("embedding/W", 30, 8), ids), -1)
    pooled = []
    for size in (3, 4):
        with v1.variable_scope(f"conv-maxpool-{size}"):
            c = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(h, get("W", size, 8, 1, 5), 1, "VALID"), get("b", 5)))
            pooled.append(tf.nn.max_pool2d(c, [1, 12 - size + 1, 1, 1], [1, 1, 1, 1], "VALID"))
    h = tf.reshape(tf.concat(pooled, 3), [-1, 10])
    v1.nn.xw_plus_b(h, get("output/W", 10, 2), get("output/b", 2), name="scores")
    return {"input_x": rng().integers(0, 30, (3, 12)).astype("int32")}, "scores"


@case()
def two_inputs():
    a, b = place("state", None, 4), place("action", None, 2)
    h = tf.nn.relu(tf.concat([dense(a, 5, "a"), b], 1))
    dense(h, 1, "q")
    return {"state": floats(3, 4), "action": floats(3, 2)}, "q/BiasAdd"


@case()
def shared_weights():
    w, b = get("fc/w", 5, 4), get("fc/b", 4)
    left, right = (tf.nn.tanh(tf.matmul(place(n, None, 5), w) + b) for n in ("left", "right"))
    tf.reduce_sum(tf.abs(left - right), 1, name="out")
    return {"left": floats(3, 5), "right": 2*floats(3, 5)}, "out"


@case()
def bytes_of_images():
    x = tf.cast(place("raw", None, 8, 8, 1, dtype=tf.uint8), tf.float32)/255. - .5
    dense(tf.reshape(x, [-1, 64]), 3, "logits")
    return {"raw": rng().integers(0, 256, (3, 8, 8, 1)).astype("uint8")}, "logits/BiasAdd"


@case()
def reshape_computed():
    x = place("X", None, 4, 6)
    shape = tf.shape(x)
    h = tf.reshape(x, tf.stack([shape[0], shape[1]*shape[2]]))
    h.set_shape([None, 24])
    dense(h, 3, "logits")
    return {"X": floats(3, 4, 6)}, "logits/BiasAdd"


@case()
def attention():
    x = place("X", None, 5, 8)
    q, k, v = (tf.reshape(tf.matmul(tf.reshape(x, [-1, 8]), get(n, 8, 8)), [-1, 5, 8]) for n in ("q", "k", "v"))
    tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True)/np.sqrt(8).astype("float32")), v, name="out")
    return {"X": floats(3, 5, 8)}, "out"


@case()
def slices_and_splits():
    x = place("X", None, 9)*get("scale", 9)
    a, b, c = tf.split(x, 3, 1)
    d = tf.stack(tf.unstack(tf.stack([a, b[:, ::-1]], 1), axis=1), 2)
    tf.concat([tf.reshape(d, [-1, 6]), c[:, 1:], x[:, tf.newaxis, 3]], 1, name="out")
    return {"X": floats(4, 9)}, "out"


@case()
def unrolled_rnn():
    x = place("X", None, 4, 3)
    state = tf.zeros([tf.shape(x)[0], 5])
    w, b = get("rnn/kernel", 8, 5), get("rnn/bias", 5)
    for step in tf.unstack(x, axis=1): state = tf.tanh(tf.matmul(tf.concat([step, state], 1), w) + b)
    tf.identity(state, name="out")
    return {"X": floats(3, 4, 3)}, "out"


@case(native=None)
def dynamic_rnn():
    x = place("X", None, 6, 3)
    w, b = get("rnn/kernel", 8, 5), get("rnn/bias", 5)
    steps = tf.transpose(x, [1, 0, 2])
    _, state = tf.while_loop(lambda t, s: t < 6, lambda t, s: (t + 1, tf.tanh(tf.matmul(tf.concat([steps[t], s], 1), w) + b)), [0, tf.zeros([tf.shape(x)[0], 5])],
                             shape_invariants=[tf.TensorShape([]), tf.TensorShape([None, 5])])
    dense(state, 2, "logits")
    return {"X": floats(3, 6, 3)}, "logits/BiasAdd"


@case(native=False)
def undecided_fork():
    x = dense(place("X", None, 4), 3, "before")
    h = v1.cond(tf.reduce_sum(x) > 0, lambda: tf.nn.relu(x), lambda: x*get("scale", 3) + tf.constant([1., 2., 3.]))
    dense(h, 2, "logits")
    return {"X": floats(3, 4)}, "logits/BiasAdd"


@case(native=False)
def unknown_operation_between():
    h = dense(place("X", None, 6), 6, "before")
    dense(tf.math.igamma(2., tf.abs(h)), 2, "logits")
    return {"X": floats(3, 6)}, "logits/BiasAdd"


@case(native=False)
def piece_between_that_comes_back():
    h = dense(place("X", None, 6), 6, "before")
    a = tf.nn.relu(h)
    b = tf.math.igamma(2., tf.abs(h))
    tf.concat([a, b, tf.nn.relu(b) + a], 1, name="out")
    return {"X": floats(3, 6)}, "out"


@case()
def one_for_each_row():
    "A start that is learned, and places that are counted, for as many rows as there are."
    x = place("X", None, 4, 3)
    rows, steps = tf.shape(x)[0], tf.shape(x)[1]
    start = tf.tile(get("start", 1, 4, 3), [rows, 1, 1])
    places = tf.tile(tf.range(steps)[None], [rows, 1])
    h = x + start + tf.gather(get("places", 9, 3), places) + tf.broadcast_to(get("more", 3), tf.shape(x))
    tf.add(h, tf.cast(tf.range(rows), tf.float32)[:, None, None], name="out")
    return {"X": floats(5, 4, 3)}, "out"


@case()
def numbers_of_one_variable():
    "A mixture: the same variable as a width and as what it is divided by."
    x, width = place("X", None, 3), get("width", 4, 3)
    far = tf.square(x[:, None] - get("mean", 4, 3))*tf.exp(-2*width)
    tf.reduce_logsumexp(-.5*tf.reduce_sum(far, 2) - tf.reduce_sum(width, 1), 1, name="out")
    return {"X": floats(5, 3)}, "out"


@case()
def places_by_whole_numbers():
    "Whole numbers added and joined, then looked up: layers of Keras would make floats of them."
    x = dense(place("X", None, 6), 4, "before")
    a, b = (tf.cast(tf.clip_by_value(part*3, 0., 3.), tf.int32) for part in tf.split(x, 2, 1))
    places = tf.range(2.) + x[..., 1:3]
    tf.concat([tf.gather(get("table", 9), a + b), tf.cast(tf.concat([a, b], 1), tf.float32), places], 1, name="out")
    return {"X": floats(5, 6)}, "out"


@case()
def operations_of_tensorflow_alone():
    x = dense(tf.reshape(place("X", None, 6, 6, 2), [-1, 2]), 2, "before")
    image = tf.reshape(x, [-1, 6, 6, 2])
    parts = tf.image.extract_patches(image, [1, 2, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1], "VALID")
    rows = tf.range(tf.shape(image)[0])
    cut = tf.image.crop_and_resize(image, tf.tile([[.1, .1, .8, .9]], [tf.shape(image)[0], 1]), rows, [3, 3])
    best, _ = tf.nn.top_k(tf.reshape(cut, [-1, 18]), 3)
    rounded = tf.quantization.fake_quant_with_min_max_vars(tf.reshape(parts, [-1, 72]), get("low") - 2., get("high") + 2.)
    tf.concat([best, rounded, tf.gather_nd(image, tf.stack([rows, rows*0, rows*0 + 1], 1))], 1, name="out")
    return {"X": floats(4, 6, 6, 2)}, "out"


@case()
def shape_not_declared():
    dense_in = place("X")
    tf.matmul(tf.cast(dense_in, tf.float32)*2., get("w", 5, 3), name="out")
    return {"X": floats(4, 5)}, "out"


@case()
def batch_declared():
    dense(tf.nn.relu(dense(place("X", 32, 6), 5, "a")), 2, "b")
    return {"X": floats(32, 6)}, "b/BiasAdd"


@case()
def reshape_with_batch_declared():
    x = place("X", 16, 36)
    h = tf.nn.relu(conv(tf.reshape(x, [16, 6, 6, 1]), 3, "conv"))
    dense(tf.reshape(h, [16, 108]), 2, "b")
    return {"X": floats(16, 36)}, "b/BiasAdd"


@case(feeds={"temperature": .5})
def other_scalar():
    tf.divide(dense(place("X", None, 6), 3, "logits"), v1.placeholder(tf.float32, [], "temperature"), name="out")
    return {"X": floats(4, 6)}, "out"


@case()
def devices_and_places():
    with tf.device("/device:GPU:7"): h = dense(place("X", None, 6), 3, "logits")
    tf.identity(h, name="out")
    return {"X": floats(4, 6)}, "out"


def write(build, folder):
    """Save as `tf.train.Saver` does; what the session gives for our own data is the truth."""
    with tf.Graph().as_default(), v1.Session(config=v1.ConfigProto(allow_soft_placement=True)) as session:
        v1.set_random_seed(1)
        feeds, out = build()
        session.run(v1.global_variables_initializer())
        prefix = v1.train.Saver().save(session, str(folder/"old.ckpt")) if v1.global_variables() else None
        return prefix, feeds, out, session.graph, session


TRUTH = {"keep_prob": 1., "p": 1., "keep": 1., "rate": 0., "phase": False, "flag": True, "training": False, "is_training": False, "train": False,
         "train_flag": False}


def truth(build, options, folder):
    with tf.Graph().as_default() as graph, v1.Session(config=v1.ConfigProto(allow_soft_placement=True)) as session:
        feeds, out = build()
        session.run(v1.global_variables_initializer())
        prefix = v1.train.Saver().save(session, str(folder/"old.ckpt"))
        there = {n.name for n in graph.as_graph_def().node}
        feed = {f"{k}:0": v for k, v in {**TRUTH, **options.get("feeds", {}), **feeds}.items() if k in there}
        try: y = session.run(f"{out}:0", feed)
        except tf.errors.OpError: y = None # NCHW on a CPU
    return prefix, feeds, out, y


def apart(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    if expected.dtype.kind != "f": return float(np.mean(found != expected))
    return float(np.abs(found - expected).max()/np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_graph(name, tmp_path):
    build, native, options = CASES[name]
    prefix, feeds, out, y = truth(build, options, tmp_path)
    old = tl.revive(prefix, feeds=options.get("feeds"))
    model = old.to_keras(outputs=out)
    entry = old.report["made"][-1]
    given = [tf.constant(feeds[i.name]) for i in model.inputs]
    found = model(given if len(given) > 1 else given[0])
    assert native is None or entry["native"] == native, (entry["pieces"], entry["refused"])
    if "expected" in options: assert options["expected"] <= {type(l).__name__ for l in model.layers}
    if "kinds" in options: assert [type(l).__name__ for l in model.layers[1:]] == options["kinds"]
    if y is not None and not options.get("random"):
        assert apart(found, y) < 1e-5
        layer = old.as_layer(outputs=out)
        order = [tf.constant(feeds[i.split(":")[0]]) for i in old.report["made"][-1]["inputs"]]
        assert apart(layer(order if len(order) > 1 else order[0]), y) < 1e-5
    model.save(tmp_path/"new.keras")
    again = keras.saving.load_model(tmp_path/"new.keras")
    assert np.array_equal(np.asarray(again(given if len(given) > 1 else given[0])), np.asarray(found), equal_nan=True)
    assert by_path(again).keys() == by_path(model).keys()


@case()
def cropped_to_what_is_below(): # of two sizes that differ by one pooling makes the same
    x = place("x", None, None, None, 1)
    low = tf.nn.max_pool2d(x, 2, 2, "VALID")
    up = tf.nn.conv2d_transpose(low, get("up", 2, 2, 1, 1), tf.shape(low)*[1, 2, 2, 1], 2, "VALID")
    size = tf.shape(up)
    tf.add(tf.slice(x, [0, 0, 0, 0], [-1, size[1], size[2], -1]), up, name="out")
    return {"x": floats(2, 21, 21, 1)}, "out"


@case()
def enlarged_to_the_size_of_its_input(): # as heads of segmentation are
    x = place("x", None, None, None, 3)
    h = conv(tf.nn.avg_pool2d(x, 2, 2, "SAME"), 2, "conv")
    v1.image.resize_bilinear(h, tf.shape(x)[1:3], align_corners=True, name="out")
    return {"x": floats(2, 13, 10, 3)}, "out"


@case()
def steps_in_their_places_again(): # sequences of any length, laid out as rows for one product
    x = place("x", None, None, 4)
    rows, steps, _ = tf.unstack(tf.shape(x))
    y = dense(tf.reshape(x, [-1, 4]), 3, "tags")
    inside = tf.cast(tf.tile(tf.range(steps)[None], [rows, 1]) < steps - 1, tf.float32)
    scores = tf.reshape(y, [rows, steps, 3])*inside[:, :, None]
    tf.divide(tf.reduce_sum(scores, 1), tf.cast(steps, tf.float32), name="out")
    return {"x": floats(2, 7, 4)}, "out"


@case()
def padded_up_to_a_multiple():
    x = place("x", None, None, 3)
    more = tf.math.floormod(-tf.shape(x)[1], 4)
    y = tf.pad(x, [[0, 0], [0, more], [0, 0]])
    y = tf.reshape(y, [tf.shape(x)[0], tf.shape(y)[1]//4, 12])
    tf.identity(tf.concat([y, tf.fill([tf.shape(y)[0], tf.shape(y)[1], 1], 2.)], 2)*get("scale"), name="out")
    return {"x": floats(2, 9, 3)}, "out"


@case()
def the_middle_of_what_is_there():
    x = place("x", None, None, 3)
    half = tf.shape(x)[1]//2
    tf.multiply(x[:, half - 1:half + 2] + tf.reduce_mean(x[:, half:], 1, keepdims=True), get("scale"), name="out")
    return {"x": floats(3, 8, 3)}, "out"


@case()
def enlarged_to_the_size_of_what_it_came_from(): # of 7 pixels a pooling makes 4, and its transpose 7 again or 8
    x = place("x", None, None, None, 2)
    low = tf.nn.relu(conv(tf.nn.avg_pool2d(x, 2, 2, "SAME"), 3, "conv"))
    size = tf.shape(x)
    up = tf.nn.conv2d_transpose(low, get("up", 4, 4, 2, 3), tf.stack([size[0], size[1], size[2], 2]), 2, "SAME")
    tf.add(up, x, name="out")
    return {"x": floats(2, 13, 10, 2)}, "out"


@case()
def states_in_one_placeholder(): # whose first sizes are no rows
    x, states = place("x", None, 5, 3), place("states", 2, 2, None, 3)
    below, above = tf.unstack(states)
    for name, (first, second) in (("below", tf.unstack(below)), ("above", tf.unstack(above))):
        x = tf.tanh(tf.tensordot(x, get(name, 3, 3), 1) + (first*second)[:, None])
    tf.identity(x, name="out")
    return {"x": floats(4, 5, 3), "states": floats(2, 2, 4, 3)}, "out"


@case(native=False)
def sizes_within_a_fork(): # as `CenterCrop` in a SavedModel of Keras
    x = place("x", None, 6, 6, 1)
    y = v1.cond(tf.shape(x)[1] > 8, lambda: x*tf.cast(tf.shape(x)[1], tf.float32), lambda: x + get("shift", 1))
    tf.identity(y, name="out")
    return {"x": floats(2, 6, 6, 1)}, "out"


def test_batch_statistics_or_moving_averages(tmp_path):
    def build():
        h = conv(place("images", None, 4, 4, 3), 4, "conv")
        g, b, m, v = parts(h, "bn")
        y, mean, variance = v1.nn.fused_batch_norm(h, g, b, epsilon=1e-3)
        for average, now in ((m, mean), (v, variance)): v1.assign_sub(average, .1*(average - now))
        tf.nn.relu(y, name="out")
        return {"images": floats(6, 4, 4, 3)}, "out"
    prefix, feeds, out, y = truth(build, {}, tmp_path)
    old = tl.revive(prefix)
    model = old.to_keras(outputs=out)
    assert apart(model(feeds["images"]), y) < 1e-5
    assert old.report["made"][-1]["rows depend on one another in"]
    steady = tl.revive(prefix, averages=True)
    other = steady.to_keras(outputs=out)
    assert {type(l).__name__ for l in other.layers} >= {"BatchNormalization"}
    norm = other.get_layer("bn")
    assert np.array_equal(norm.moving_mean, old.values["bn/moving_mean"])
    assert "moving averages" in steady.report["made"][-1]["compared with"]
    assert apart(other(feeds["images"][:1]), np.asarray(other(feeds["images"]))[:1]) < 1e-5
