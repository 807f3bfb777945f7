"""Which end of a graph is taken, and what a graph may take while it is tried."""
import re
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import transferlit as tl
from transferlit.tf1 import Limits, assembly, read_graph, revived
from transferlit.errors import UnsafeFile
from transferlit.tf1.inference import Inference, read_constant_texts
from transferlit.tf1.limits import TooLarge, check_kernels, check_loops, check_sizes, try_in_child

v1, raw = tf.compat.v1, tf.raw_ops


def held(name, *shape):
    return v1.get_variable(name, initializer=np.random.default_rng(len(name)).normal(size=shape).astype("float32"))


def saved(folder, build):
    with tf.Graph().as_default(), v1.Session() as session:
        build()
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder/"m.ckpt"))
    return tl.revive(folder/"m.ckpt")


def frozen(folder, build):
    with tf.Graph().as_default() as graph:
        tf.identity(build(v1.placeholder(tf.float32, [None, 3], "x")), "out")
    (folder/"g.pb").write_bytes(graph.as_graph_def().SerializeToString())
    return folder/"g.pb"


def kernel(): return tf.constant(np.ones((3, 2), "float32"))


def test_two_tasks_are_asked_for(tmp_path):
    def build():
        x = v1.placeholder(tf.float32, [None, 3], "x")
        body = tf.nn.relu(tf.matmul(x, held("body", 3, 4)))
        for name in ("age", "mood"):
            labels = v1.placeholder(tf.int32, [None], f"{name}_labels")
            logits = tf.matmul(body, held(f"{name}_kernel", 4, 2), name=name)
            v1.losses.sparse_softmax_cross_entropy(labels, logits)
    old = saved(tmp_path, build)
    with pytest.raises(ValueError, match="outputs=.*age:0.*|.*mood:0"): old.to_keras()
    assert len(old.to_keras(outputs=["age", "mood"]).outputs) == 2


def placed(name, *shape, dtype=tf.float32): return v1.placeholder(dtype, list(shape), name)


def dense(x, units, name): return tf.add(tf.matmul(x, held(f"{name}_kernel", int(x.shape[-1]), units)), held(f"{name}_bias", units), name=name)


def by_hand(p, t): return -tf.reduce_sum(t*tf.math.log(tf.clip_by_value(p, 1e-10, 1.)))


def with_epsilon(p, t): return tf.reduce_mean(-t*tf.math.log(p + 1e-7) - (1 - t)*tf.math.log(1 - p + 1e-7))


def contrastive(p, t): return tf.reduce_mean(t*p + (1 - t)*tf.maximum(0., 1 - p))


def margins(p, t): return tf.reduce_mean(t*tf.square(tf.maximum(0., .9 - p)) + (1 - t)*tf.square(tf.maximum(0., p - .1)))


def weighted(p, t): return tf.reduce_mean(tf.nn.weighted_cross_entropy_with_logits(t, p, 2.))


def in_parts(p, t):
    mean, deviation = tf.split(p, 2, 1)
    return tf.reduce_mean(tf.exp(-tf.square((t[:, :1] - mean)/tf.exp(deviation))))


@pytest.mark.parametrize("loss", [by_hand, with_epsilon, contrastive, margins, weighted, in_parts])
def test_what_a_written_loss_takes_is_the_output(loss, tmp_path):
    def build():
        p = tf.nn.softmax(dense(placed("x", None, 3), 2, "last"), name="p")
        v1.train.GradientDescentOptimizer(.1).minimize(loss(p, placed("t", None, 2)))
    old = saved(tmp_path, build)
    old.to_keras()
    assert old.report["made"][-1]["outputs"] == ["p:0"]


@pytest.mark.parametrize("loss", [lambda a, b: tf.nn.l2_loss(a) + tf.nn.l2_loss(b), lambda a, b: tf.reduce_sum(a)*tf.reduce_sum(b)])
def test_a_total_is_not_taken_for_the_output(loss, tmp_path):
    def build():
        a, b = (tf.gather(held(name, 9, 4), placed(f"{name}_ids", None, dtype=tf.int32)) for name in ("user", "item"))
        trained(loss(a, b))
    with pytest.raises(ValueError, match="Nothing shows which output is meant"): saved(tmp_path, build).to_keras()


def test_two_inputs_of_one_network_are_told_apart(tmp_path):
    "A discriminator of real and of made-up images: one of two outputs with equal weights is no silent choice."
    def build():
        z, x = placed("z", None, 3), placed("x", None, 4)
        w, made = held("judge", 4, 1), dense(z, 4, "made")
        real, fake = tf.matmul(x, w, name="real"), tf.matmul(tf.tanh(made), w, name="fake")
        v1.train.GradientDescentOptimizer(.1).minimize(tf.reduce_mean(tf.nn.relu(real)) - tf.reduce_mean(tf.nn.softplus(fake)))
    with pytest.raises(ValueError, match="outputs="): saved(tmp_path, build).to_keras()


def test_heads_of_different_losses_are_asked_for(tmp_path):
    def build():
        body = tf.nn.relu(dense(placed("x", None, 3), 4, "body"))
        kind, size = dense(body, 3, "kind"), dense(body, 1, "size")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=placed("k", None, dtype=tf.int32), logits=kind))
        v1.train.GradientDescentOptimizer(.1).minimize(loss + tf.reduce_mean(tf.square(size - placed("s", None, 1))))
    with pytest.raises(ValueError, match="kind:0.*size:0|size:0.*kind:0"): saved(tmp_path, build).to_keras()


def test_the_twin_that_evaluates_comes_first(tmp_path):
    "Trained with the statistics of the batch, evaluated with stored ones: the second is the model."
    def build():
        x, kernel, mean = placed("x", None, 3), held("kernel", 3, 2), held("mean", 2)
        h = tf.matmul(x, kernel)
        batch = tf.nn.batch_normalization(h, *tf.nn.moments(h, [0]), None, None, 1e-3)
        stored = tf.nn.batch_normalization(h, mean, tf.square(mean) + 1, None, None, 1e-3)
        with v1.variable_scope("top", reuse=v1.AUTO_REUSE):
            last = v1.get_variable("last", [2, 2])
        train, test = tf.matmul(batch, last, name="train"), tf.matmul(stored, last, name="test")
        labels = placed("labels", None, dtype=tf.int64)
        v1.train.GradientDescentOptimizer(.1).minimize(tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=train)))
        tf.equal(tf.argmax(test, 1), labels)
    old = saved(tmp_path, build)
    old.to_keras()
    assert old.report["made"][-1]["outputs"] == ["test:0"]


@pytest.mark.parametrize("mode,compare,train", [
    (lambda: placed("mode", dtype=tf.int32), lambda m: tf.equal(m, 1), 1),
    (lambda: placed("mode", dtype=tf.string), lambda m: tf.equal(m, "train"), b"train"),
    (lambda: v1.placeholder_with_default("infer", [], "mode"), lambda m: tf.equal(m, "train"), b"train")])
def test_a_mode_in_a_number_or_a_word_is_a_switch(mode, compare, train, tmp_path):
    def build():
        h = dense(placed("x", None, 3), 4, "body")
        h = tf.cond(compare(mode()), lambda: tf.nn.dropout(h, rate=.5), lambda: h)
        dense(h, 2, "out")
    old = saved(tmp_path, build)
    model = old.to_keras()
    assert len(model.inputs) == 1 and old.report["made"][-1]["native"]
    assert old.report["made"][-1]["difference"] < 1e-5 and not old.notes


@pytest.mark.parametrize("size", [2, None])
def test_a_vector_of_keep_probabilities_is_a_switch(size, tmp_path):
    def build():
        keep, h = placed("keep", size), placed("x", None, 3)
        for i in range(2): h = v1.nn.dropout(tf.nn.relu(dense(h, 4, f"layer{i}")), keep[i])
        dense(h, 2, "out")
    model = saved(tmp_path, build).to_keras()
    assert [t.name for t in model.inputs] == ["x"]


def test_slices_of_one_variable_are_layers_of_their_own(tmp_path):
    "Two products with parts of one matrix, as gates are written: neither takes the other's weights."
    def build():
        x = placed("x", None, 3)
        a, b = tf.split(held("both", 3, 8), 2, 1)
        tf.subtract(tf.nn.relu(tf.matmul(x, a)), tf.nn.relu(tf.matmul(x, b)), name="y")
    old = saved(tmp_path, build)
    old.to_keras()
    assert old.report["made"][-1]["difference"] < 1e-5


def test_candidate_sampling_is_training(tmp_path):
    def build():
        words, near = v1.placeholder(tf.int32, [None], "words"), v1.placeholder(tf.int32, [None, 1], "near")
        vectors = tf.nn.embedding_lookup(held("table", 30, 4), words, name="vectors")
        tf.reduce_mean(tf.nn.sampled_softmax_loss(held("w", 30, 4), held("b", 30), near, vectors, 6, 30), name="loss")
    old = saved(tmp_path, build)
    old.to_keras()
    assert old.report["made"][-1]["outputs"][0].startswith("vectors")


def test_a_variable_is_no_output_and_says_so(tmp_path):
    old = saved(tmp_path, lambda: tf.matmul(v1.placeholder(tf.float32, [None, 3], "x"), held("w", 3, 2), name="y"))
    with pytest.raises(ValueError, match="is a variable"): old.to_keras(outputs="w:0")


def test_the_sample_that_is_given_is_used(tmp_path):
    def build():
        x = v1.placeholder(tf.float32, None, "x")
        tf.matmul(tf.reshape(x, [-1, 5]), held("w", 5, 2), name="y")
    saved(tmp_path, build)
    path, data = tmp_path/"m.ckpt", np.ones((4, 5), "float32")
    assert tl.revive(path, sample={"x": data}).to_keras()(data).shape == (4, 2)
    with pytest.raises(ValueError, match="TensorFlow (refuses|says)"): tl.revive(path, sample={"x": data[:, :3]}).to_keras()


@pytest.mark.parametrize("build", [
    lambda x: tf.matmul(x, kernel()) + tf.reduce_sum(tf.fill([1 << 16, 1 << 17], 1.)),
    lambda x: tf.matmul(x, kernel()) + tf.reduce_sum(tf.tile(tf.fill([1 << 12], 1.), [1 << 20])),
    lambda x: tf.matmul(x, kernel()) + tf.reduce_sum(tf.cast(tf.range(1 << 33), tf.float32)),
], ids=["fill", "tile", "range"])
def test_huge_tensors_are_refused(build, tmp_path):
    with pytest.raises(TooLarge, match="gigabytes="): tl.revive(frozen(tmp_path, build), gigabytes=1, seconds=10).to_keras()


def test_bounds_that_can_be_read_off_need_no_child(tmp_path):
    path = frozen(tmp_path, lambda x: tf.while_loop(lambda i, h: i < 5, lambda i, h: (i + 1, tf.tanh(h)), [0, tf.matmul(x, kernel())])[1])
    graph = read_graph(path).graph_def
    nodes = {n.name: n for n in graph.node}
    assert not check_loops(nodes, graph.library) and not check_sizes(nodes, Limits())


def test_a_loop_without_an_end(tmp_path):
    def build(x):
        spec = tf.TensorSpec([], tf.float32)
        go, stay = (tf.function(f).get_concrete_function(spec) for f in (lambda i: i < 1., lambda i: i*1.))
        return tf.matmul(x, kernel()) + tf.raw_ops.While(input=[tf.constant(0.)], cond=go, body=stay)[0]
    with pytest.raises(TooLarge, match="seconds="): tl.revive(frozen(tmp_path, build), seconds=1).to_keras()


def turned(stop, start=0, step=1, go=tf.less):
    """A loop around a product that counts from `start` to `stop`."""
    def build(x):
        return tf.while_loop(lambda i, h: go(i, stop(x)), lambda i, h: (i + step, tf.tanh(h)), [tf.constant(start, tf.int64), tf.matmul(x, kernel())])[1]
    return build


def passed_on(x):
    return tf.while_loop(lambda i, n, h: n > i, lambda i, n, h: (i + 1, n, tf.tanh(h)), [0, 10**9, tf.matmul(x, kernel())])[2]


def at_most(x):
    return tf.while_loop(lambda i, h: i < 2*10**9, lambda i, h: (i + 1, tf.tanh(h)), (0, tf.matmul(x, kernel())), maximum_iterations=10**9)[1]


LONG = dict(up=turned(lambda x: 10**9), down=turned(lambda x: 0, 2*10**9, -2, tf.greater), either=turned(lambda x: 3*10**9, step=3, go=lambda i, n: tf.greater_equal(n, i)),
            passed_on=passed_on, at_most=at_most)


@pytest.fixture(params=["new", "old"])
def ways(request):
    """Loops as functions, and as nodes of the graph itself."""
    if request.param == "old": v1.disable_control_flow_v2()
    yield request.param
    v1.enable_control_flow_v2()


@pytest.mark.parametrize("name", LONG)
def test_turns_that_are_written_down_are_refused_at_once(name, ways, tmp_path, monkeypatch):
    monkeypatch.setattr(revived, "try_in_child", lambda *_: pytest.fail("was run"))
    with pytest.raises(TooLarge, match="has 1,000,000,000 turns.*seconds="): tl.revive(frozen(tmp_path, LONG[name])).to_keras(outputs="out")


def test_a_long_loop_that_is_not_entered_is_no_fault(ways, tmp_path):
    """Behind a fork that goes the other way, and one that ends before it begins."""
    def build(x):
        taken = tf.cond(tf.reduce_sum(x*0.) > 1., lambda: turned(lambda x: 10**9)(x), lambda: tf.matmul(x, kernel()))
        return taken + tf.matmul(x, kernel())*turned(lambda x: -10**9)(x)
    path, data = frozen(tmp_path, build), np.ones((2, 3), "float32")
    assert np.allclose(tl.revive(path).to_keras(outputs="out")(data), 12.)


def doubled(x, times=50):
    """Sums of sums: three million turns and more in a few hundred bytes, and a walk that takes both ways doubles, too."""
    stop = raw.Shape(input=x, out_type=tf.int64)[0]
    for _ in range(times): stop = raw.AddV2(x=stop, y=stop)
    return stop


def listed(x):
    shape = tf.constant([], tf.int32)
    held = raw.TensorListReserve(element_shape=shape, num_elements=1, element_dtype=tf.int64)
    held = raw.TensorListSetItem(input_handle=held, index=0, item=tf.constant(10**9, tf.int64))
    return tf.reduce_max(raw.TensorListStack(input_handle=held, element_shape=shape, element_dtype=tf.int64))


STOPS = dict(doubled=doubled, twenty=lambda x: doubled(x, 20), listed=listed, table=lambda x: tf.gather(tf.constant([10**9]*100, tf.int64), 3),
             sliced=lambda x: raw.StridedSlice(input=tf.constant([10**9]*100, tf.int64), begin=[0], end=[1], strides=[1], shrink_axis_mask=1))


@pytest.mark.parametrize("name", STOPS)
def test_a_stop_that_may_be_far_is_tried_in_a_child(name, ways, tmp_path):
    graph = read_graph(frozen(tmp_path, turned(STOPS[name]))).graph_def
    assert check_loops({n.name: n for n in graph.node}, graph.library, Limits())


def test_circles_among_functions_and_conditions_that_double_are_walked_once(tmp_path):
    def build(x):
        def go(i, h):
            found = i < 5
            for _ in range(60): found = tf.logical_and(found, found)
            return found
        return tf.while_loop(go, lambda i, h: (i + 1, tf.tanh(h)), [0, tf.matmul(x, kernel())])[1]
    graph = read_graph(frozen(tmp_path, build)).graph_def
    nodes = {n.name: n for n in graph.node}
    assert not check_loops(nodes, graph.library)
    for function in graph.library.function:
        for key in function.ret: function.ret[key] = "round:output:0"
        function.node_def.add(name="round", op="Identity", input=["square:output:0"])
        function.node_def.add(name="square", op="Identity", input=["round:output:0"])
    assert check_loops(nodes, graph.library)


def test_a_loop_has_no_more_time_in_this_process(ways, tmp_path, monkeypatch):
    """As many turns as the shape of a tensor says that holds nothing: it takes no memory, and no child was asked."""
    monkeypatch.setattr(revived, "try_in_child", lambda *_: pytest.fail("was asked"))
    path = frozen(tmp_path, turned(lambda x: raw.Shape(input=raw.Reshape(tensor=x[:0], shape=[10**9, 0]), out_type=tf.int64)[0]))
    old = tl.revive(path, seconds=1)
    for _ in range(2):
        with pytest.raises(TooLarge, match="within 1 seconds"): old.to_keras(outputs="out")


def test_nobody_waits_twice_for_a_graph_that_does_not_end(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(revived, "try_in_child", lambda *a: asked.append(a) or try_in_child("time.sleep", (60,), a[-1]))
    old = tl.revive(frozen(tmp_path, turned(lambda x: tf.cast(tf.reduce_sum(x)*0. + 1e9, tf.int64))), seconds=0.5)
    repr(old)
    for _ in range(2):
        with pytest.raises(TooLarge, match="seconds="): old.to_keras(outputs="out")
    assert len(asked) == 1


def column(x): return tf.reshape(tf.fill([1 << 16], tf.reduce_sum(x)), [-1, 1])


def letters(x):
    text = tf.as_string(x[:1, 0])
    for _ in range(40): text = tf.strings.join([text, text])
    return tf.strings.length(text)


GROWN = dict(broadcast=lambda x: column(x) + tf.transpose(column(x)), segments=lambda x: tf.math.segment_sum(x[0, :1], tf.constant([(1 << 31) - 2], tf.int64)),
             letters=letters)
SAID = dict(broadcast="would need 16.0 GB.*gigabytes=", segments="more than 1 GB.*gigabytes=", letters="letters.*gigabytes=")


@pytest.mark.parametrize("name", GROWN)
def test_what_grows_when_it_runs_is_refused(name, tmp_path):
    """Small tensors, large results: known from shapes, or only as it runs. This process lives on, with its own limits."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    def build(x): return tf.matmul(x, kernel()) + 0.*tf.reduce_sum(tf.cast(GROWN[name](x), tf.float32))
    with pytest.raises(TooLarge, match=SAID[name]): tl.revive(frozen(tmp_path, build), gigabytes=1).to_keras(outputs="out")
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def long(letters): return tf.strings.reduce_join(tf.fill([letters//1000], "a"*1000))


TEXTS = dict(
    replaced=lambda x: tf.strings.length(tf.strings.regex_replace(long(100_000), "a", "b"*1000)),
    decoded=lambda x: tf.reduce_sum(tf.strings.unicode_decode(long(5_000_000), "UTF-8")),
    filled=lambda x: tf.reduce_sum(tf.strings.length(tf.fill([10_000], "a"*2000))),
    wide=lambda x: tf.strings.length(tf.strings.as_string(1, width=20_000_000)),
)


@pytest.mark.parametrize("name", TEXTS)
def test_a_long_text_is_refused_before_it_is_made(name, tmp_path):
    """What no input reaches is computed here, and TensorFlow asks nobody before it makes a text: too long a one ends the process."""
    path = frozen(tmp_path, lambda x: tf.matmul(x, kernel()) + tf.cast(TEXTS[name](x), tf.float32))
    graph = read_graph(path).graph_def
    nodes = {n.name: n for n in graph.node}
    with pytest.raises(TooLarge, match="would need"):
        read = Inference(nodes, {}, limits=Limits(gigabytes=0.01))
        for n in nodes: read.value((n, 0))


def many(x): return tf.cast(x[0, 0]*0. + 1e9, tf.int32)
def a_list(x): return raw.TensorListPushBack(input_handle=raw.EmptyTensorList(element_shape=[-1], max_num_elements=-1, element_dtype=tf.float32), tensor=x[0])
def twice(handle): return raw.TensorListConcatLists(input_a=handle, input_b=handle, element_dtype=tf.float32)
def length(handle): return raw.TensorListLength(input_handle=handle)
def repeated(start, turn, times=40):
    for _ in range(times): start = turn(start)
    return start


def in_a_loop(start, turn): return tf.while_loop(lambda i, t: i < 40, lambda i, t: (i + 1, turn(t)), [0, start])[1]
def in_a_function(x):
    @tf.function
    def inner(x): return length(raw.TensorListResize(input_handle=a_list(x), size=many(x)))
    return inner(x)


def square(x, size): return tf.fill([size, size], tf.reduce_sum(x))


BEYOND = {  # no allocator asks, and nothing ends it: this process would die, or wait
    "a list as long as a value": lambda x: length(raw.TensorListResize(input_handle=a_list(x), size=many(x))),
    "a list in a function": in_a_function,
    "an array as long as a value": lambda x: tf.TensorArray(tf.float32, many(x)).size(),
    "a place far off": lambda x: tf.TensorArray(tf.float32, 1, dynamic_size=True).write(1_500_000_000, x[0]).size(),
    "an index far off": lambda x: length(raw.TensorListScatterV2(tensor=x[:1], indices=[2_000_000_000], element_shape=[3], num_elements=-1)),
    "lists that double": lambda x: length(repeated(a_list(x), twice)),
    "lists that double in a loop": lambda x: length(in_a_loop(a_list(x), twice)),
    "texts that double in a loop": lambda x: tf.strings.length(in_a_loop(tf.strings.as_string(x[0, 0]), lambda t: tf.strings.join([t, t]))),
    "texts in a form": lambda x: tf.strings.length(repeated(tf.strings.as_string(x[0]), lambda t: tf.strings.format("{}{}", [t, t]))),
    "letters that widen": lambda x: tf.strings.length(repeated(tf.strings.as_string(x[0]), tf.io.encode_base64, 90)),
    "digits": lambda x: tf.strings.length(tf.strings.as_string(x, precision=2_000_000_000)),
    "rows of a sparse tensor": lambda x: tf.sparse.fill_empty_rows(tf.SparseTensor([[0, 0]], x[0, :1], [1 << 31, 3]), 1.)[0].values,
    "a vocabulary": lambda x: raw.ThreadUnsafeUnigramCandidateSampler(true_classes=tf.constant([[1]], tf.int64), num_true=1, num_sampled=5, unique=False, range_max=2_000_000_000)[0],
    "boxes": lambda x: tf.image.non_max_suppression(tf.random.uniform([200_000, 4]), tf.random.uniform([200_000]), 200_000, iou_threshold=1.),
    "slow numbers": lambda x: tf.random.gamma([many(x)], 1.),
    "numbers that are drawn again": lambda x: raw.RandomPoissonV2(shape=[3], rate=[1e30], seed=1),
}
SLOW = {  # one operation each, which nothing stops once it has begun
    "singular values": lambda x: tf.linalg.svd(square(x, 2000))[0],
    "an inverse": lambda x: tf.linalg.inv(square(x, 2000)),
    "a series": lambda x: tf.math.betainc(square(x, 2000), square(x, 2000), .5*square(x, 2000)),
    "a wide window": lambda x: tf.nn.avg_pool2d(square(x, 2000)[None, :, :, None], [301, 301], 1, "SAME"),
    "rounds": lambda x: raw.RandomIndexShuffle(index=[1], seed=[1, 2, 3], max_index=[9], rounds=2_000_000_000),
}
BEYOND |= SLOW
WITHIN = {  # ordinary ones need no child, which takes seconds
    "a list with a place for each row": lambda x: length(raw.TensorListReserve(element_shape=[3], num_elements=tf.shape(x)[0], element_dtype=tf.float32)),
    "an array of a known size": lambda x: tf.TensorArray(tf.float32, 9).write(3, x[0]).size(),
    "a recurrent layer": lambda x: keras.layers.LSTM(4)(tf.reshape(x, [-1, 3, 1])),
    "some texts": lambda x: tf.strings.length(tf.strings.join([tf.strings.as_string(x[0]), "a"])),
    "a loop": lambda x: in_a_loop(x, lambda t: t*2.),
}


@pytest.mark.parametrize("name", [*BEYOND, *WITHIN])
def test_what_no_limit_reaches_is_tried_in_a_child(name, ways, tmp_path):
    def build(x): return tf.matmul(x, kernel()) + 0.*tf.reduce_sum(tf.cast((BEYOND | WITHIN)[name](x), tf.float32))
    graph = read_graph(frozen(tmp_path, build)).graph_def
    nodes = {n.name: n for n in graph.node if "/Initializer/" not in n.name}
    assert bool(check_sizes(nodes, Limits()) + check_kernels(nodes, graph.library)) == (name in BEYOND)


PRODUCTS = {  # from shapes alone: which would take minutes
    "convolution": (lambda x: tf.nn.conv2d(x[None, :, :, None], tf.ones([101, 101, 1, 256]), 1, "SAME"), 500),
    "depthwise": (lambda x: tf.nn.depthwise_conv2d(x[None, :, :, None], tf.ones([301, 301, 1, 9]), [1]*4, "SAME"), 500),
    "dilation": (lambda x: raw.Dilation2D(input=x[None, :, :, None], filter=tf.ones([301, 301, 1]), strides=[1]*4, rates=[1]*4, padding="SAME"), 900),
    "matrices": (lambda x: tf.matmul(x, x), 9000),
    "sums": (lambda x: tf.einsum("ij,jk,kl->il", x, x, x), 9000),
}


@pytest.mark.parametrize("constant", [False, True], ids=["of data", "constant"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_one_operation_that_multiplies_for_minutes_is_refused(name, constant, tmp_path):
    """The limit of time holds between operations only: nothing ends one that has begun."""
    build, size = PRODUCTS[name]
    def whole(x):
        one = tf.constant(1.) if constant else tf.reduce_sum(x)
        return tf.matmul(x, kernel()) + 0.*tf.reduce_sum(build(tf.fill([size, 1], one)*tf.fill([1, size], one)))
    start = time.monotonic()
    with pytest.raises(TooLarge, match="more than 5 seconds"): tl.revive(frozen(tmp_path, whole), seconds=5, gigabytes=16).to_keras(outputs="out")
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("count", [3, 100_000])
def test_a_fused_cell_of_any_length_leaves_this_process_alone(count, tmp_path):
    """TensorFlow ends the process where a cell is to run longer than its input."""
    def build(x):
        given = dict(cs_prev=tf.zeros([1, 5]), h_prev=tf.zeros([1, 5]), w=tf.ones([8, 20])*.1, wci=tf.zeros([5]), wcf=tf.zeros([5]), wco=tf.zeros([5]), b=tf.zeros([20]))
        return raw.BlockLSTM(seq_len_max=tf.constant(count, tf.int64), x=tf.reshape(x, [-1, 1, 3]), **given)[6]
    path = frozen(tmp_path, lambda x: tf.matmul(x, kernel()) + tf.reduce_sum(build(tf.tile(x, [4, 1]))))
    with pytest.raises(ValueError): tl.revive(path).to_keras(outputs="out")


def test_one_text_on_the_way_is_no_hindrance(tmp_path):
    """A session gives a text by itself as bytes, no array."""
    def build(x): return tf.matmul(x, kernel()) + 0.*tf.cast(tf.strings.length(tf.strings.reduce_join(tf.strings.as_string(x))), tf.float32)
    path, data = frozen(tmp_path, build), np.ones((2, 3), "float32")
    np.testing.assert_allclose(tl.revive(path).to_keras(outputs="out")(data), data @ np.ones((3, 2)), rtol=1e-5)


def test_a_result_that_fits_no_array_is_more_than_the_limit(tmp_path):
    def build(x):
        times = tf.cast(0.*tf.reduce_sum(x), tf.int32) + 3_000  # 12 GB, which no shape says
        return tf.matmul(x, kernel()) + 0.*tf.reduce_sum(tf.gather(tf.fill([1, 1_000_000], tf.reduce_sum(x)), tf.zeros([times], tf.int32)))
    with pytest.raises(TooLarge): tl.revive(frozen(tmp_path, build)).to_keras(outputs="out")


def test_a_chain_of_constant_products_is_refused_before_it_takes_minutes(tmp_path):
    def build(x):
        found = tf.fill([1500, 1500], tf.constant(1e-4))
        for _ in range(100): found = tf.matmul(found, found)
        return tf.matmul(x, kernel()) + 0.*tf.reduce_sum(found)
    with pytest.raises(TooLarge, match="all that is constant up to"): tl.revive(frozen(tmp_path, build), seconds=2).to_keras(outputs="out")


def test_a_chain_of_products_of_data_is_tried_in_a_child(tmp_path):
    """A run of a session ends at its time only where it comes to a loop."""
    def build(x):
        found = square(x, 1500)
        for _ in range(600): found = tf.matmul(found, found)*1e-4
        return tf.matmul(x, kernel()) + 0.*tf.reduce_sum(found)
    start = time.monotonic()
    with pytest.raises(TooLarge, match="within 5 seconds"): tl.revive(frozen(tmp_path, build), seconds=5).to_keras(outputs="out")
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("turned", [False, True])
def test_products_of_constant_matrices_need_no_more_than_they_are(turned, tmp_path):
    """A product of two squares of 1,500 rows is as large as one of them."""
    square = np.eye(1500, dtype="float32")
    def build(x): return tf.matmul(x, kernel()) + tf.matmul(square, square, transpose_a=turned)[0, :2]
    model = tl.revive(frozen(tmp_path, build), gigabytes=.5).to_keras(outputs="out")
    np.testing.assert_allclose(model(np.ones((2, 3), "float32")), [[4, 3]]*2)


def test_a_list_as_long_as_a_value_ends_the_child_alone(tmp_path):
    path = frozen(tmp_path, lambda x: tf.matmul(x, kernel()) + tf.cast(BEYOND["a list as long as a value"](x), tf.float32))
    with pytest.raises(TooLarge, match="needs more than 1 GB"): tl.revive(path, gigabytes=1).to_keras(outputs="out")


@pytest.mark.parametrize("build", [lambda x: tf.dynamic_partition(x[0], [0, 1, 0], 200_000)[0], lambda x: tf.split(tf.tile(x[0], [100_000]), 300_000)[0]])
def test_more_tensors_than_can_be_followed_are_refused(build, tmp_path):
    """One number in the file, a tensor each."""
    path = frozen(tmp_path, lambda x: tf.matmul(x, kernel()) + tf.reduce_sum(build(x)))
    with pytest.raises(TooLarge, match="00,000 tensors"): tl.revive(path).to_keras(outputs="out")


def test_what_the_model_does_not_need_is_not_computed(tmp_path):
    def build(x):
        tf.identity(tf.matmul(x*tf.reduce_sum(tf.tile(tf.fill([1 << 12], 1.), [1 << 10])), kernel()), "beside")
        return tf.matmul(x, kernel())
    path, data = frozen(tmp_path, build), np.ones((2, 3), "float32")
    assert np.array_equal(tl.revive(path, gigabytes=0.01).to_keras(outputs="out")(data), data @ np.ones((3, 2)))
    with pytest.raises(TooLarge, match="would need"): tl.revive(path, gigabytes=0.01).to_keras(outputs="beside")


def test_a_text_that_grows_with_the_input_is_tried_first(tmp_path):
    def reasons(rewrite, width=-1):
        def build(x):
            text = tf.strings.regex_replace(tf.strings.as_string(x[0, 0], width=width), "a|", rewrite)
            return tf.matmul(x, kernel()) + tf.cast(tf.strings.length(text), tf.float32)
        return check_sizes({n.name: n for n in read_graph(frozen(tmp_path, build)).graph_def.node}, Limits())
    assert reasons("b"*(1 << 22)) and reasons("b", width=1 << 22) and not reasons("b"*100)


def test_as_many_texts_as_a_number_says_are_tried_first(tmp_path):
    """Each is an object here, when its values are looked at: minutes, in this process, for 30 million."""
    def reasons(size):
        path = frozen(tmp_path, lambda x: tf.matmul(x, kernel()) + tf.cast(tf.strings.length(tf.strings.reduce_join(tf.fill(size(x), "a"))), tf.float32))
        return check_sizes({n.name: n for n in read_graph(path).graph_def.node}, Limits())
    assert reasons(lambda x: tf.cast(x[:1, 0]*3e7, tf.int32)) and not reasons(lambda x: tf.shape(x)[:1]*3)


@pytest.mark.parametrize("op, arguments", [
    ("Conv2DBackpropInput", dict(input_sizes=[1, 1 << 16, 1 << 15, 1], filter=np.ones((1, 1, 1, 1), "f4"), out_backprop=np.ones((1, 2, 1, 1), "f4"),
                                 strides=[1, 1 << 15, 1 << 15, 1], padding="SAME")),
    ("CropAndResize", dict(image=np.ones((1, 2, 2, 1), "f4"), boxes=np.zeros((1, 4), "f4"), box_ind=[0], crop_size=[1 << 16, 1 << 15])),
    ("StridedSliceGrad", dict(shape=[(1 << 31) - 8], begin=[0], end=[1], strides=[1], dy=np.ones(1, "f4"))),
])
def test_a_size_that_is_written_down_is_not_made(op, arguments):
    with tf.Graph().as_default() as graph: getattr(tf.raw_ops, op)(**arguments)
    with pytest.raises(TooLarge): check_sizes({n.name: n for n in graph.as_graph_def().node}, Limits())


def test_calls_that_double_are_refused(tmp_path):
    """Forty functions, each of which calls the one before twice: 2**40 additions in a few KB."""
    def build(x):
        add = tf.function(lambda t: t + 1.)
        return tf.matmul(tf.function(lambda t: add(add(t)))(x), kernel())
    path = frozen(tmp_path, build)
    graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    twice = next(f for f in graph.library.function if sum("Call" in n.op for n in f.node_def) == 2)
    for level in range(40):
        above = graph.library.function.add()
        above.CopyFrom(twice)
        above.signature.name = f"twice{level}"
        for node in above.node_def:
            if "Call" in node.op: node.attr["f"].func.name = f"twice{level - 1}" if level else twice.signature.name
    for node in graph.node:
        if "Call" in node.op: node.attr["f"].func.name = "twice39"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(UnsafeFile, match="nodes"): tl.revive(path).to_keras(outputs="out")


def trained(loss): v1.train.GradientDescentOptimizer(.1).minimize(loss)


def probability(x): return tf.nn.softmax(dense(x, 3, "o"), name="p")


def one_column(x): tf.identity(probability(x)[:, 1], "score")


def above_a_half(x): tf.cast(probability(x) > .5, tf.float32, name="label")


def expected(x): tf.reduce_sum(probability(x)*tf.range(3.), 1, name="age")


def with_noise(x):
    mean = dense(x, 2, "mean")
    tf.add(mean, tf.exp(held("deviation", 2))*tf.random.normal(tf.shape(mean)), name="action")


def focal(x):
    p, t = probability(x), placed("t", None, 3)
    trained(-tf.reduce_mean(t*tf.pow(1 - p, 2.)*tf.math.log(p + 1e-9)))


def triplet(x):
    p = tf.nn.l2_normalize(dense(x, 4, "o"), 1, name="p")
    a, b, c = tf.unstack(tf.reshape(p, [-1, 3, 4]), 3, 1)
    trained(tf.reduce_mean(tf.maximum(0., tf.reduce_sum((a - b)**2 - (a - c)**2, 1) + .2)))


def with_temperature(x): tf.nn.softmax(dense(x, 3, "o")/placed("t"), name="p")


def with_gradient_of_one_class(x): tf.gradients(dense(x, 3, "o")[:, 0], x), tf.nn.softmax(v1.get_default_graph().get_tensor_by_name("o:0"), name="p")


@pytest.mark.parametrize("build, taken, said", [(one_column, "p", "score:0 (made of it)"), (above_a_half, "p", "label:0 (made of it)"), (expected, "age", "p:0 (in front of it)"),
    (with_noise, "mean", ""), (focal, "p", ""), (triplet, "p", "guess"), (with_temperature, "p", ""), (with_gradient_of_one_class, "p", "strided_slice:0")])
def test_what_the_end_is_made_of_is_taken_or_said(tmp_path, build, taken, said):
    "A column, a threshold, noise, the weight of a loss, a loss of each row: the output is what they are made of; what was passed over is said."
    old = saved(tmp_path, lambda: build(placed("x", None, 5)))
    model = old.to_keras()
    assert old.report["made"][-1]["outputs"] == [f"{taken}:0"] and old.report["made"][-1]["difference"] < 1e-5
    assert said in " ".join(model.notes) if said else not model.notes


def exported(folder, build):
    "A SavedModel of TensorFlow 1; `build` gives its signatures, each a pair of inputs and outputs by name."
    model, infos = v1.saved_model, v1.saved_model.build_tensor_info
    with tf.Graph().as_default(), v1.Session() as session:
        parts = {name: [{k: infos(t) for k, t in side.items()} for side in pair] for name, pair in build().items()}
        session.run(v1.global_variables_initializer())
        builder = model.Builder(str(folder/"s"))
        builder.add_meta_graph_and_variables(session, ["serve"], {name: model.build_signature_def(*pair) for name, pair in parts.items()})
        builder.save()
    return tl.revive(folder/"s")


def in_two_parts():
    x = placed("x", None, 3)
    body = tf.nn.relu(dense(x, 4, "body"), name="h")
    return x, body, dense(body, 2, "o")


def loss_and_serving():
    x, _, y = in_two_parts()
    t = placed("t", None, dtype=tf.int32)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=t, logits=y), name="loss")
    return {"train": ({"x": x, "t": t}, {"loss": loss}), "serving_default": ({"x": x}, {"y": y})}


def body_and_serving():
    x, body, y = in_two_parts()
    return {"body": ({"x": x}, {"h": body}), "serving_default": ({"x": x}, {"y": y})}


def a_whole_number_too():
    x, _, y = in_two_parts()
    return {"serving_default": ({"x": x}, {"y": y, "class": tf.argmax(y, 1, name="class")})}


@pytest.mark.parametrize("build, said", [(loss_and_serving, "loss:0"), (body_and_serving, "h:0"), (a_whole_number_too, "class:0")])
def test_the_signature_for_serving_comes_first_and_others_are_told(tmp_path, build, said):
    old = exported(tmp_path, build)
    assert said in " ".join(old.to_keras().notes) and old.report["made"][-1]["outputs"] == ["o:0"]


def test_signatures_of_equal_standing_are_asked_for(tmp_path):
    def build():
        x = placed("x", None, 3)
        return {name: ({"x": x}, {"y": dense(x, 2, name)}) for name in ("age", "mood")}
    with pytest.raises(ValueError, match=r"outputs=.*\(signature '(age|mood)'\)"): exported(tmp_path, build).to_keras()


def test_a_saved_model_without_signatures_says_that_it_has_no_output(tmp_path):
    module = tf.Module()
    module.weight = tf.Variable(np.ones((3, 2), "float32"))
    tf.saved_model.save(module, str(tmp_path/"s"))
    with pytest.raises(ValueError, match="must have an output"): tl.revive(tmp_path/"s").to_keras()


def trained(loss, scope=None):
    v1.train.GradientDescentOptimizer(.1).minimize(loss, var_list=v1.get_collection("trainable_variables", scope))


def fed_one_by_one():
    x, t = v1.placeholder(tf.float32, [], "x"), v1.placeholder(tf.float32, [], "t")
    trained(tf.reduce_sum(tf.square(tf.add(x*held("w"), held("bb"), name="wanted") - t)))


def ranked_pairs():
    items, score = held("items", 9, 4), held("user", 4)
    a, b = (tf.gather(items, placed(n, None, dtype=tf.int32)) for n in ("better", "worse"))
    trained(-tf.reduce_mean(tf.math.log_sigmoid(tf.reduce_sum(a*score, 1, name="wanted") - tf.reduce_sum(b*score, 1))))


def with_a_margin():
    items = held("items", 9, 4)
    a, b = (tf.nn.l2_normalize(tf.gather(items, placed(n, None, dtype=tf.int32)), 1) for n in ("right", "wrong"))
    trained(tf.reduce_sum(tf.maximum(tf.reduce_sum(tf.abs(a - 1.), 1, name="wanted") - tf.reduce_sum(tf.abs(b - 1.), 1) + 1., 0.)))


def tags_of_words():
    x, t, count = placed("x", None, 5, 4), placed("t", None, 5, dtype=tf.int32), placed("count", None, dtype=tf.int32)
    there, steps = tf.sequence_mask(count, 5, dtype=tf.float32), held("steps", 3, 3)
    flat = tf.reshape(x*there[..., None], [-1, 4])
    y = tf.reshape(dense(flat, 3, "logits"), [-1, tf.shape(x)[1], 3], name="wanted")
    right = tf.reduce_sum(y*tf.one_hot(t, 3), 2)*there
    follows = tf.gather_nd(steps, tf.stack([t[:, :-1], t[:, 1:]], 2))*there[:, 1:]
    trained(tf.reduce_mean(tf.reduce_logsumexp(y[:, 0] + steps[0], 1) - tf.reduce_sum(right, 1) - tf.reduce_sum(follows, 1)))


def best_of_a_batch():
    x, t = placed("x", None, 4), placed("t", None, 1)
    logits = dense(x, 1, "logits")
    tf.nn.top_k(tf.reshape(tf.sigmoid(logits, name="wanted"), [-1]), 2)
    trained(tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=t, logits=logits)))


def log_probabilities():
    y = tf.identity(dense(placed("x", None, 3), 2, "logits"), "wanted")
    trained(-tf.reduce_mean(tf.reduce_sum(placed("t", None, 2)*tf.nn.log_softmax(y), 1)))


def for_each_step():
    y = tf.tensordot(placed("x", None, 5, 3), held("kernel", 3, 4), 1, name="wanted")
    trained(tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=placed("t", None, 5, dtype=tf.int32), logits=y)))


def aligned_by_ctc():
    y = tf.reshape(dense(tf.reshape(placed("x", None, 5, 3), [-1, 3]), 4, "each"), [-1, 5, 4], name="wanted")
    labels = v1.sparse_placeholder(tf.int32, name="t")
    trained(tf.reduce_mean(v1.nn.ctc_loss(labels, tf.transpose(y, [1, 0, 2]), placed("n", None, dtype=tf.int32))))


@pytest.mark.parametrize("build", [fed_one_by_one, ranked_pairs, with_a_margin, tags_of_words, best_of_a_batch, log_probabilities, for_each_step, aligned_by_ctc])
def test_the_model_ends_before_its_loss(build, tmp_path):
    old = saved(tmp_path, build)
    of = {node.name: node.input[0] for node in old.meta.graph_def.node if node.op == "Identity"}
    first, _ = old.candidates[0].ref
    assert first in ("wanted", of.get("wanted"))


def put_in_places():
    h = dense(placed("x", None, 3), 2, "below")
    spread = tf.scatter_nd([[3], [1]], tf.transpose(h), tf.stack([4, tf.shape(h, out_type=tf.int32)[0]]))
    tf.matmul(tf.ensure_shape(tf.transpose(spread), [None, 4]), held("kernel", 4, 2), name="wanted")


def test_what_is_put_in_its_place_is_no_update(tmp_path):
    old = saved(tmp_path, put_in_places)
    old.to_keras()
    assert old.report["made"][-1]["outputs"] == ["wanted:0"]


def out_of_a_list_for_each_row():
    ids = tf.io.parse_example(v1.placeholder(tf.string, [None]), {"ids": tf.io.VarLenFeature(tf.int64)})["ids"]
    mean = tf.nn.safe_embedding_lookup_sparse(held("table", 5, 3), ids)
    dense(tf.reshape(mean, [-1, 3]), 2, "end")


def out_of_files():
    def read(text): return tf.image.resize(tf.cast(tf.io.decode_png(text, 3), tf.float32), [2, 2])
    image = tf.map_fn(read, v1.placeholder(tf.string, [None], "files"), tf.float32)
    dense(tf.reshape(image, [-1, 12]), 2, "end")


@pytest.mark.parametrize("build", [out_of_a_list_for_each_row, out_of_files])
def test_where_to_begin_is_said_and_works(build, tmp_path):
    old = saved(tmp_path, build)
    with pytest.raises(ValueError, match="Begin behind") as found: old.to_keras()
    (begin,) = re.findall(r"`inputs='(.*?)'`", str(found.value))
    assert old.to_keras(inputs=begin).output.shape[-1] == 2
    assert old.report["made"][-1]["native"] and old.report["made"][-1]["difference"] < 1e-5


def test_half_precision_rounds_more(tmp_path):
    def build():
        mean = tf.reduce_mean(tf.cast(placed("x", None, 8, 8, 3), tf.float16), [1, 2])
        dense(tf.cast(mean, tf.float32), 2, "end")
    old = saved(tmp_path, build)
    old.to_keras()
    assert old.report["made"][-1]["native"], old.report["made"][-1]["refused"]


def test_one_image_may_be_all_that_a_graph_takes(tmp_path):
    "What remains of the boxes of an image has no rows: the batch is the one that was declared."
    def build():
        boxes = tf.reshape(dense(tf.reshape(placed("image", 1, 4, 3), [-1, 3]), 4, "box"), [-1, 4])
        kept = tf.image.non_max_suppression(boxes, tf.sigmoid(boxes[:, 0]), 3)
        tf.gather(boxes, kept, name="detected")
    old = saved(tmp_path, build)
    assert old.to_keras("detected").input.shape == (1, 4, 3)
    assert old.report["made"][-1]["difference"] < 1e-5


def test_all_that_one_loss_takes_is_asked_for(tmp_path):
    "A mixture density network: its loss compares the means with the label, and takes two more heads."
    def build():
        x, t = placed("x", None, 3), placed("t", None, 1)
        share, mean, width = tf.nn.softmax(dense(x, 2, "share"), name="part"), dense(x, 2, "mean"), tf.exp(dense(x, 2, "width"), name="wide")
        trained(-tf.reduce_mean(tf.math.log(tf.reduce_sum(share*tf.exp(-tf.square((t - mean)/width))/width, 1))))
    with pytest.raises(ValueError, match="outputs=") as found: saved(tmp_path, build).to_keras()
    assert all(name in str(found.value) for name in ("mean:0", "part:0", "wide:0"))


def judge(x):
    with v1.variable_scope("judge", reuse=v1.AUTO_REUSE): return tf.matmul(x, v1.get_variable("kernel", [3, 1]))


@pytest.mark.parametrize("mixed", [False, True])
def test_a_generator_is_offered_and_not_what_judges_it(mixed, tmp_path):
    def build():
        x, z = placed("x", None, 3), placed("z", None, 2)
        with v1.variable_scope("maker"): made = tf.tanh(tf.matmul(z, v1.get_variable("kernel", [2, 3])), name="made")
        loss = tf.reduce_mean(judge(made)) - tf.reduce_mean(judge(x))
        if mixed:
            part = tf.random.uniform([tf.shape(x)[0], 1])
            between = part*x + (1 - part)*made
            loss += tf.reduce_mean(tf.square(tf.gradients(judge(between), between)[0]))
        trained(loss, "judge")
        trained(-tf.reduce_mean(judge(made)), "maker")
    old = saved(tmp_path, build)
    named = {c.ref[0] for c in old.candidates if c.score >= 40}
    assert "maker/made" in named and not any("judge" in n and "maker/kernel" in old.origins.variables[n] for n in named)
    try: model = old.to_keras()
    except ValueError as error: assert "maker/made" in str(error) and "outputs=" in str(error)
    else: assert old.report["made"][-1]["outputs"] == ["maker/made:0"] and "judge" in str(model.notes)


@pytest.mark.parametrize("read", [
    tf.strings.to_number, lambda text: tf.cast(tf.strings.to_hash_bucket_fast(text, 5), tf.float32)], ids=["numbers", "buckets"])
def test_numbers_out_of_text_in_the_file_are_no_input(read, tmp_path):
    old = saved(tmp_path, lambda: tf.matmul(placed("x", None, 3)*read(tf.constant(["1", "2", "3"])), held("k", 3, 2), name="y"))
    model = old.to_keras()
    assert [t.name for t in model.inputs] == ["x"] and old.report["made"][-1]["difference"] < 1e-6


def test_long_text_in_the_file_is_not_read_before_it_is_asked_for(tmp_path):
    "One value of a million copies is a few bytes in a file."
    graph = tf.Graph()
    with graph.as_default(): tf.strings.to_number(tf.constant("1", shape=[3]), name="y")
    definition = graph.as_graph_def()
    definition.node[0].attr["value"].tensor.tensor_shape.dim[0].size = 10**9
    nodes = {node.name: node for node in definition.node}
    assert read_constant_texts(nodes) == nodes


def joined(first, times):
    for _ in range(times): first = tf.concat([first, first], 0)
    return first


CONSTANTS = {  # what a few bytes of constants become
    "one number for all": lambda: tf.constant(1., shape=[200, 1000, 1000]),
    "many of them": lambda: tf.add_n([tf.reduce_sum(tf.constant(float(i), shape=[3000, 1000])) for i in range(50)]),
    "joined with itself": lambda: joined(tf.constant(np.ones(64, "float32")), 21),
    "outer product": lambda: raw.Einsum(inputs=[tf.constant(np.ones(10_000, "float32"))]*2, equation="a,b->ab"),
    "diagonal": lambda: raw.MatrixDiag(diagonal=tf.constant(np.ones(10_000, "float32"))),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_become_no_more_than_an_eighth_of_the_memory(name, tmp_path, monkeypatch):
    """Refused by what is known before they are unpacked and folded."""
    monkeypatch.setattr(revived, "try_in_child", lambda *arguments: None)
    path = frozen(tmp_path, lambda x: tf.identity(x*tf.reduce_sum(CONSTANTS[name]()), "out"))
    with pytest.raises(TooLarge, match="declares|would need"): tl.revive(path).to_keras(outputs="out")


@pytest.mark.parametrize("why", ["deep", "many"])
def test_more_layers_than_keras_takes_stay_one_piece(why, tmp_path, monkeypatch):
    """Keras follows a model by recursion, and to understand an operation takes milliseconds."""
    def build(x):
        for _ in range(8): x = tf.tanh(tf.matmul(x, tf.eye(3)))
        return x
    monkeypatch.setattr(assembly, *{"deep": ("_FRAMES", sys.getrecursionlimit() - 7), "many": ("MANY_OPERATIONS", 7)}[why])
    made, data = tl.revive(frozen(tmp_path, build)).to_keras(), np.ones((2, 3), "float32")
    assert len(made.layers) == 2
    np.testing.assert_allclose(made(data), build(data), rtol=1e-6)


def test_a_sample_that_fills_the_memory_is_not_drawn(tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 1 << 20, 1 << 20], name="x")
        tf.reduce_sum(x, [1, 2], name="out")
    (tmp_path / "g.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(TooLarge, match="a sample of the input 'x:0'"): tl.revive(tmp_path / "g.pb").to_keras()


def test_a_number_of_rows_that_fits_the_output_by_chance_is_no_batch(tmp_path):
    "The sequence comes first in what comes out; a batch as long as the sequence would look like rows of it."
    def build():
        steps = tf.reshape(tf.matmul(tf.reshape(placed("x", None, 8, 3), [-1, 3]), held("kernel", 3, 2)), [-1, 8, 2])
        tf.transpose(steps, [1, 0, 2], name="steps")
    model = saved(tmp_path, build).to_keras("steps")
    assert model.input.shape[0] is None
    x = np.random.default_rng(0).normal(size=(3, *model.input.shape[1:])).astype("float32")
    with tf.Graph().as_default(), v1.Session() as session:
        v1.train.import_meta_graph(str(tmp_path/"m.ckpt.meta")).restore(session, str(tmp_path/"m.ckpt"))
        truth = session.run("steps:0", {"x:0": x})
    np.testing.assert_allclose(model(x), truth, atol=1e-5)


def test_a_sample_is_not_smaller_than_the_kernels_of_a_graph(tmp_path):
    "TensorFlow computes something for an image of 2 pixels and a kernel of 3; a U-Net without padding meets that."
    def build():
        h = x = placed("x", None, None, None, 3)
        for i in range(4): h = tf.nn.relu(tf.nn.conv2d(h, held(f"kernel_{i}", 3, 3, 3, 3), 1, "VALID"))
        up = tf.nn.conv2d_transpose(tf.nn.max_pool2d(h, 2, 2, "SAME"), held("up", 2, 2, 3, 3), tf.shape(h)*[1, 1, 1, 1], 2)
        tf.nn.conv2d(up, held("end_kernel", 5, 5, 3, 2), 1, "VALID", name="end")
    old = saved(tmp_path, build)
    model = old.to_keras("end:0")
    x = np.random.default_rng(0).normal(size=(2, 22, 30, 3)).astype("float32")
    with tf.Graph().as_default(), v1.Session() as session:
        v1.train.import_meta_graph(str(tmp_path/"m.ckpt.meta")).restore(session, str(tmp_path/"m.ckpt"))
        truth = session.run("end:0", {"x:0": x})
    np.testing.assert_allclose(model(x), truth, atol=1e-4)
