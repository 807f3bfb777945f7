"""Old programs of kinds that hide something: their output, their shapes, their batch, their values. Each finds by itself what a user would name."""
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework.function import Defun

import transferlit as tl
from transferlit.tf1.assembly import difference

v1 = tf.compat.v1
CASES = {}


def case(build):
    """The function builds a graph and returns what to feed and the output that should be found."""
    CASES[build.__name__] = build
    return build


@pytest.fixture(autouse=True)
def old_ways():
    v1.disable_control_flow_v2()
    yield
    v1.enable_control_flow_v2()


def numbers(*shape, seed=3): return np.random.default_rng(seed).normal(size=shape).astype("float32")
def held(name, *shape, **kwargs): return v1.get_variable(name, initializer=.5*numbers(*shape, seed=sum(map(ord, name))), use_resource=False, **kwargs)
def fed(name, *shape, dtype=tf.float32): return v1.placeholder(dtype, list(shape), name)


def dense(x, units, name, activation=None):
    with v1.variable_scope(name): z = tf.add(tf.matmul(x, held("kernel", x.shape[-1], units)), held("bias", units), name="add")
    return activation(z, name=f"{name}/{activation.__name__}") if activation else z


def loss(logits, labels=None):
    labels = fed("labels", None, dtype=tf.int64) if labels is None else labels
    total = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    v1.train.GradientDescentOptimizer(.1).minimize(total)


@case
def factors_of_dropout_between_layers():
    keep = v1.placeholder(tf.float32, None, "keep")
    h = dense(fed("x", None, 6), 5, "a", tf.nn.relu)
    h = h/keep*tf.floor(keep + tf.random.uniform(tf.shape(h)))
    h.set_shape([None, 5])
    out = dense(h, 3, "b")
    tf.reduce_mean(tf.cast(tf.equal(tf.argmax(tf.nn.softmax(out), 1), fed("labels", None, dtype=tf.int64)), tf.float32))
    return {"x": numbers(4, 6), "keep": 1.}, "Softmax"


@case
def columns_are_rows(): # kernels to the left, a column for each example
    x = fed("x", 6, None)
    h = tf.nn.relu(tf.matmul(held("w1", 5, 6), x) + held("b1", 5, 1))
    out = tf.matmul(held("w2", 3, 5), h) + held("b2", 3, 1)
    tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=tf.transpose(fed("y", 3, None)), logits=tf.transpose(out)))
    return {"x": numbers(6, 4)}, "transpose_1"


@case
def rows_asked_for():
    x, rows = fed("x", None, 4, 3), v1.placeholder(tf.int32, [], "batch_size")
    state, kernel = tf.zeros(tf.stack([rows, 5])), held("kernel", 8, 5)
    for step in tf.unstack(x, axis=1): state = tf.tanh(tf.matmul(tf.concat([step, state], 1), kernel))
    out = dense(state, 2, "out")
    loss(out)
    return {"x": numbers(3, 4, 3), "batch_size": 3}, "out/add"


@case
def rows_asked_for_beside_a_slice(): # what counts the rows is not called as a node of the graph is
    x, rows = fed("x", None, 4, 3), v1.placeholder(tf.int32, [], "batch_size")
    state = tf.zeros(tf.stack([rows, 5]))
    out = dense(tf.concat([x[:, -1], state], 1), 2, "out")
    loss(out)
    return {"x": numbers(3, 4, 3), "batch_size": 3}, "out/add"


@case
def batch_written_into_the_graph():
    x = fed("x", None, 4)
    out = dense(tf.concat([x, tf.zeros([7, 2])], 1), 3, "out")
    loss(out)
    return {"x": numbers(7, 4)}, "out/add"


@case
def shape_of_an_image_not_said():
    x = v1.placeholder(tf.float32, None, "x")
    h = tf.nn.relu(tf.nn.conv2d(tf.reshape(x, [-1, 6, 6, 1]), held("filters", 3, 3, 1, 4), 2, "SAME"))
    out = dense(tf.reshape(h, [-1, 36]), 3, "out")
    loss(out)
    return {"x": numbers(4, 36)}, "out/add"


@case
def time_first_and_a_state_from_outside():
    x, state = v1.placeholder(tf.float32, None, "x"), v1.placeholder(tf.float32, None, "state")
    rows = tf.matmul(tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, 2]), held("in", 2, 4))
    c, h = tf.split(state, 2, 1)
    for step in tf.split(rows, 5, 0):
        i, j, f, o = tf.split(tf.matmul(tf.concat([step, h], 1), held_once("gates", 7, 12)), 4, 1)
        c = c*tf.sigmoid(f + 1.) + tf.sigmoid(i)*tf.tanh(j)
        h = tf.tanh(c)*tf.sigmoid(o)
    out = dense(tf.ensure_shape(h, [None, 3]), 2, "out")
    tf.reduce_mean(tf.square(out - fed("y", None, 2)))
    return {"x": numbers(3, 5, 2), "state": numbers(3, 6)}, "out/add"


def held_once(name, *shape):
    with v1.variable_scope("", reuse=v1.AUTO_REUSE): return held(name, *shape)


@case
def loss_of_another_kind(): # a score for each tag, joined with the labels by a table of transitions
    x, tags = fed("x", None, 4), fed("tags", None, dtype=tf.int32)
    scores = dense(x, 3, "scores")
    picked = tf.gather_nd(scores, tf.stack([tf.range(tf.shape(tags)[0]), tags], 1)) + tf.gather(held("transitions", 3), tags)
    total = tf.reduce_mean(tf.reduce_logsumexp(scores, 1) - picked)
    v1.train.GradientDescentOptimizer(.1).minimize(total)
    return {"x": numbers(5, 4)}, "scores/add"


@case
def numbers_each_for_itself():
    x = v1.placeholder(tf.float32, None, "x")
    out = tf.add(x*held("w"), held("b"), name="line")
    tf.reduce_mean(tf.square(out - v1.placeholder(tf.float32, None, "y")))
    return {"x": numbers(5)}, "line"


@case
def words_counted_from_one():
    x = fed("x", None, 4)
    h = tf.nn.embedding_lookup(held("table", 9, 5), tf.cast(x, tf.int32) - 1)
    out = dense(tf.reduce_mean(h, 1), 2, "out")
    loss(out)
    return {"x": np.float32([[1, 2, 3, 4], [9, 8, 7, 1]])}, "out/add"


@case
def leaky_by_product_and_maximum():
    h = dense(fed("x", None, 6), 5, "a")
    out = dense(tf.maximum(.01*h, h), 3, "b")
    loss(out)
    return {"x": numbers(4, 6)}, "b/add"


@case
def functions_of_a_library():
    @Defun(tf.float32, func_name="squashed")
    def squashed(z): return tf.tanh(z)*.5
    out = dense(tf.ensure_shape(squashed(dense(fed("x", None, 6), 5, "a")), [None, 5]), 3, "b")
    loss(out)
    return {"x": numbers(4, 6)}, "b/add"


@case
def partitioned_variable():
    kernel = v1.get_variable("kernel", [6, 4], initializer=v1.random_normal_initializer(seed=1), partitioner=v1.fixed_size_partitioner(2), use_resource=False)
    out = tf.matmul(fed("x", None, 6), tf.convert_to_tensor(kernel), name="out")
    loss(out)
    return {"x": numbers(4, 6)}, "out"


@case
def from_a_queue():
    queue = tf.queue.FIFOQueue(8, [tf.float32, tf.int64], [[6], []])
    x, labels = queue.dequeue_many(4)
    out = dense(tf.identity(x, "x"), 3, "out")
    loss(out, labels)
    return {"x": numbers(4, 6)}, "out/add"


@case
def from_a_dataset():
    data = tf.data.Dataset.from_tensors((numbers(4, 6), np.int64([0, 1, 2, 0])))
    x, labels = v1.data.make_initializable_iterator(data).get_next()
    out = dense(tf.identity(x, "x"), 3, "out")
    loss(out, labels)
    return {"x": numbers(4, 6)}, "out/add"

@case
def an_input_is_called_like_a_layer():
    out = tf.matmul(fed("dense", None, 6), held("dense/kernel", 6, 3))
    loss(out)
    return {"dense": numbers(4, 6)}, "MatMul"


@case
def one_state_for_all_rows():
    x, state = fed("x", None, 4), fed("state", 1, 3)
    out = dense(tf.concat([x, tf.tile(state, [tf.shape(x)[0], 1])], 1), 2, "out")
    loss(out)
    return {"x": numbers(4, 4), "state": numbers(1, 3)}, "out/add"


def write(build, folder):
    """What `tf.train.Saver` leaves, and what the session gives for any tensor."""
    with tf.Graph().as_default() as graph:
        feeds, out = build()
        session = v1.Session(graph=graph)
        session.run(v1.global_variables_initializer())
        prefix = v1.train.Saver().save(session, str(folder/"old.ckpt"))
    def run(name): return session.run(name, {f"{k}:0": v for k, v in feeds.items()})
    return prefix, feeds, out, run


@pytest.mark.parametrize("name", CASES)
def test_found_by_itself(name, tmp_path):
    prefix, feeds, out, run = write(CASES[name], tmp_path)
    old = tl.revive(prefix)
    model = old.to_keras()
    entry = old.report["made"][-1]
    assert entry["native"], entry["pieces"]
    assert entry["outputs"] == [f"{out}:0"]
    given = [tf.constant(feeds[i.name if i.name in feeds else "x"]) for i in model.inputs]
    given = given if len(given) > 1 else given[0]
    found = model(given)
    assert difference(found, run(entry["outputs"][0])) < 1e-5
    model.save(tmp_path/"new.keras")
    assert np.array_equal(keras.saving.load_model(tmp_path/"new.keras")(given), found)


def small():
    x = fed("x", None, 6)
    dense(dense(x, 5, "hidden", tf.nn.relu), 3, "out")
    return {"x": numbers(4, 6)}, "out/add"


def test_frozen_file(tmp_path):
    with tf.Graph().as_default() as graph, v1.Session() as session:
        feeds, out = small()
        session.run(v1.global_variables_initializer())
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), [out])
        expected = session.run(f"{out}:0", {"x:0": feeds["x"]})
    (tmp_path/"frozen.pb").write_bytes(frozen.SerializeToString())
    old = tl.revive(tmp_path/"frozen.pb")
    model = old.to_keras()
    assert old.report["made"][-1]["native"] and [type(l).__name__ for l in model.layers[1:]] == ["Dense", "Dense"]
    assert difference(model(feeds["x"]), expected) < 1e-5


def meta_of(path): return meta_graph_pb2.MetaGraphDef.FromString(path.read_bytes())


def test_collections_gone_or_broken(tmp_path):
    prefix, feeds, out, run = write(small, tmp_path)
    path = tmp_path/"old.ckpt.meta"
    meta = meta_of(path)
    meta.collection_def.clear()
    meta.collection_def["hiddens"].node_list.value.extend(["hidden/relu:0", "removed/Relu:0"])
    path.write_bytes(meta.SerializeToString())
    old = tl.revive(prefix)
    assert "removed/Relu" in " ".join(old.broken)
    assert difference(old.to_keras(outputs="out/add")(feeds["x"]), run("out/add:0")) < 1e-5


def test_operation_that_is_missing_here(tmp_path):
    prefix, feeds, _, _ = write(small, tmp_path)
    path = tmp_path/"old.ckpt.meta"
    meta = meta_of(path)
    node = next(n for n in meta.graph_def.node if n.name == "out/MatMul")
    node.op = "SomebodysProduct"
    node.attr.clear()
    path.write_bytes(meta.SerializeToString())
    old = tl.revive(prefix)
    with pytest.raises(ValueError, match="in memory.*SomebodysProduct"): old.to_keras(outputs="out/add")
    below = old.to_keras(outputs="hidden/relu")
    assert old.report["made"][-1]["native"] and below(feeds["x"]).shape == (4, 5)


def test_moving_averages_of_weights(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        feeds, out = small()
        average = tf.train.ExponentialMovingAverage(.5)
        update = average.apply(v1.trainable_variables())
        session.run(v1.global_variables_initializer())
        kernel = v1.trainable_variables()[0]
        session.run(update)
        session.run(kernel.assign_add(tf.ones(kernel.shape)))
        session.run(update)
        prefix = v1.train.Saver().save(session, str(tmp_path/"old.ckpt"))
        now, mean = session.run([kernel, average.average(kernel)])
    for averages, value in ((False, now), (True, mean)):
        model = tl.revive(prefix, averages=averages).to_keras(outputs=out)
        assert np.array_equal(tl.by_path(model)["hidden/kernel"], value)
    assert tl.revive(prefix).report["variables"][-1]["role"] != "weight"


def test_several_outputs(tmp_path):
    def build():
        h = dense(fed("x", None, 6), 5, "hidden", tf.nn.relu)
        dense(h, 3, "policy"), dense(h, 1, "value")
        return {"x": numbers(4, 6)}, "policy/add"
    prefix, feeds, _, run = write(build, tmp_path)
    model = tl.revive(prefix).to_keras(outputs=["policy", "value"])
    policy, value = model(feeds["x"])
    assert difference(policy, run("policy/add:0")) < 1e-5 and value.shape == (4, 1)
    assert [l.name for l in model.layers[1:]] == ["hidden", "policy", "value"]


def test_values_of_another_program(tmp_path):
    """A part whose variables the checkpoint does not hold is not chosen while another one can be."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = fed("x", None, 6)
        loss(dense(dense(x, 8, "big", tf.nn.relu), 3, "bigger"))
        stored = v1.global_variables()
        for name in "cde":
            with v1.variable_scope(name): x = tf.tanh(tf.matmul(x, v1.get_variable("kernel", [x.shape[1], 7])), name="out")
        session.run(v1.global_variables_initializer())
        prefix = v1.train.Saver(stored).save(session, str(tmp_path/"old.ckpt"))
    old = tl.revive(prefix)
    old.to_keras()
    assert old.report["made"][-1]["outputs"] == ["bigger/add:0"]
    with pytest.raises(ValueError, match="must have a value.*Received: '[cde]/kernel'"): old.to_keras(outputs="e/out")


def test_a_long_row_of_sums_is_read_in_time_that_grows_with_its_length(tmp_path, monkeypatch):
    from transferlit.tf1 import normalization
    tried, real = [], normalization._assign_parts
    monkeypatch.setattr(normalization, "_assign_parts", lambda *args: tried.append(1) or real(*args))
    with tf.Graph().as_default(), v1.Session() as session:
        y = dense(fed("x", None, 4), 4, "a")
        for i in range(180): y = y + .001*i
        tf.identity(y, "y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path/"row.ckpt"))
    tl.revive(tmp_path/"row.ckpt").to_keras("y")
    assert len(tried) <= 180


@pytest.mark.parametrize("shape, x", [([], np.float32(2.)), (None, np.float32([2.]))])
def test_a_single_number_goes_in(shape, x, tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        w, b = (v1.get_variable(n, initializer=i, use_resource=False) for n, i in (("w", .3), ("b", .1)))
        tf.add(v1.placeholder(tf.float32, shape, name="x")*w, b, name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path/"line.ckpt"))
    model = tl.revive(tmp_path/"line.ckpt").to_keras()
    np.testing.assert_allclose(np.ravel(model(x)), [.7], rtol=1e-6)


def test_a_signature_may_give_constants_too(tmp_path):
    """A weight and a temperature beside what the model computes."""
    module = tf.Module()
    module.k = tf.Variable(np.ones((3, 2), "float32"), name="k")

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x")])
    def serve(x):
        return {"probs": tf.nn.softmax(x @ module.k), "scale": tf.identity(module.k), "heat": tf.constant([0.5])}

    tf.saved_model.save(module, str(tmp_path), signatures=serve)
    model = tl.revive(tmp_path).to_keras()
    x = np.random.default_rng(0).random((4, 3)).astype("float32")
    np.testing.assert_allclose(model(x), serve(tf.constant(x))["probs"], atol=1e-6)
    assert any("no input reaches it" in note for note in model.notes)
    ends = [f"StatefulPartitionedCall:{i}" for i in range(3)]
    with pytest.raises(ValueError, match="An output must depend on an input. Ask for .* alone"):
        tl.revive(tmp_path).to_keras(outputs=ends)


@pytest.mark.parametrize("shape, scale, center", [((9, 4), True, True), ((7,), True, False), ((5, 6, 3), False, True)], ids=str)
def test_a_layer_normalization_by_the_operation_of_another(shape, scale, center, tmp_path):
    """As Keras 2 computes it: rows are the channels of a batch of one."""
    module, width, rng = tf.Module(), shape[-1], np.random.default_rng(0)
    module.gamma = tf.Variable(rng.random(width).astype("float32"), name="gamma")
    module.beta = tf.Variable(rng.random(width).astype("float32"), name="beta")

    @tf.function(input_signature=[tf.TensorSpec([None, *shape], name="x")])
    def serve(x):
        count = tf.reduce_prod(tf.shape(x)[:-1])
        laid = tf.reshape(x, [1, count, width, 1])
        made, *_ = tf.compat.v1.nn.fused_batch_norm(
            laid, tf.ones([count]), tf.zeros([count]), epsilon=0.01, data_format="NCHW")
        made = tf.reshape(made, tf.shape(x))
        made = made * module.gamma if scale else made
        return made + module.beta if center else made

    tf.saved_model.save(module, str(tmp_path), signatures=serve)
    model = tl.revive(tmp_path).to_keras()
    x = rng.normal(size=(5, *shape)).astype("float32")
    np.testing.assert_allclose(model(x), serve(tf.constant(x)), atol=1e-5)
    (layer,) = [found for found in model.layers if found.variables]
    assert (type(layer), layer.scale, layer.center) == (keras.layers.LayerNormalization, scale, center)


def by_moments(x, gamma, beta, small):
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, small)


def by_hand(x, gamma, beta, small):
    mean = tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), -1, keepdims=True)
    return gamma * (x - mean) / tf.sqrt(variance + small) + beta


def beside_the_root(x, gamma, beta, small):
    mean = tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), -1, keepdims=True)
    return gamma * (x - mean) / (tf.sqrt(variance) + small) + beta


@pytest.mark.parametrize("way, layer", [(by_moments, True), (by_hand, True), (beside_the_root, False)])
def test_a_layer_normalization_written_out(way, layer, tmp_path):
    """What is added beside the root is another function, though nobody sees it in most rows: one of no variance tells."""
    rng = np.random.default_rng(0)
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 6], "x")
        gamma, beta = (v1.get_variable(n, initializer=rng.random(6).astype("float32")) for n in ("gamma", "beta"))
        y = tf.identity(way(x, gamma, beta, 1e-6), "y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "model"))
        rows = rng.normal(size=(5, 6)).astype("float32")
        rows[2] = 3.0
        rows[3] = 3.0 + 1e-4 * rows[4]
        wanted = session.run(y, {x: rows})
    model = tl.revive(tmp_path / "model.meta").to_keras(outputs="y")
    np.testing.assert_allclose(model(rows), wanted, rtol=1e-2, atol=1e-4)
    assert any(isinstance(found, keras.layers.LayerNormalization) for found in model.layers) == layer


L = keras.layers
MASKED = {
    "last": [L.LSTM, {}],
    "whole": [L.GRU, dict(return_sequences=True)],
    "zeros": [L.SimpleRNN, dict(return_sequences=True, zero_output_for_mask=True)],
    "backwards": [L.LSTM, dict(return_sequences=True, go_backwards=True)],
    "both ways": [L.GRU, dict(return_sequences=True)],
}


@pytest.mark.parametrize("kind", MASKED)
def test_a_loop_with_a_mask_is_a_layer_with_a_mask(kind, tmp_path):
    """Padding at the end, a gap, and a row that is all padding; the sample of the revival has hardly a masked step."""
    cell, config = MASKED[kind]
    layer = cell(5, **config)
    layer = L.Bidirectional(layer) if kind == "both ways" else layer
    old = keras.Sequential([keras.Input((None,)), L.Embedding(500, 4, mask_zero=True), layer, L.Dense(2)])
    old.export(tmp_path, verbose=False)
    ids = np.random.default_rng(0).integers(1, 500, (5, 9)).astype("float32")
    ids[:2, 6:] = ids[3, 1] = ids[4] = 0
    new, saved = tl.revive(tmp_path).to_keras(), tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(new(ids), saved.serve(tf.constant(ids)), atol=1e-6)
    assert any(type(found) is type(layer) for found in new.layers)
    assert not any(type(found).__name__ == "GraphLayer" for found in new.layers)


@pytest.mark.parametrize("cell, config", [(L.GRU, {}), (L.LSTM, {}), (L.LSTM, dict(return_sequences=True)), (L.SimpleRNN, dict(return_sequences=True, zero_output_for_mask=True))])
def test_a_loop_with_a_mask_that_starts_from_given_states(cell, config, tmp_path):
    ids, start = keras.Input((None,), name="ids"), keras.Input((3,), name="start")
    states = [L.Dense(5)(start) for _ in range(2 if cell is L.LSTM else 1)]
    found = cell(5, **config)(L.Embedding(500, 4, mask_zero=True)(ids), initial_state=states)
    old = keras.Model([ids, start], L.Dense(2)(found))
    old.export(tmp_path, verbose=False)
    rng = np.random.default_rng(0)
    numbers = rng.integers(1, 500, (5, 9)).astype("float32")
    numbers[:2, 6:] = numbers[3, 1] = numbers[4] = 0
    revived = tl.revive(tmp_path)
    new = revived.to_keras()
    for rows in (5, 2):
        given = {"ids": numbers[:rows], "start": rng.normal(size=(rows, 3)).astype("float32")}
        wanted = old([given["ids"], given["start"]])
        names = [next(n for n in given if n in t.name) for t in new.inputs]
        np.testing.assert_allclose(new([given[n] for n in names]), wanted, atol=1e-6)
    assert revived.report["made"][-1]["native"] and any(type(layer) is cell for layer in new.layers)


def test_what_is_added_to_the_root_is_not_added_to_the_variance(tmp_path):
    "As `darkflow` normalizes; where variances are about 1 the difference is small, and there."
    rng = np.random.default_rng(0)
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], "x")
        mean, gamma, beta = (v1.get_variable(n, initializer=rng.random(4).astype("float32")) for n in ("mean", "gamma", "beta"))
        variance = v1.get_variable("variance", initializer=np.float32([1.0, 0.9, 1.1, 2.0]))
        tf.add((x - mean) / (tf.sqrt(variance) + 1e-5) * gamma, beta, "y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "model"))
        rows = rng.normal(size=(50, 4)).astype("float32")
        wanted = session.run("y:0", {x: rows})
    old = tl.revive(tmp_path / "model.meta")
    np.testing.assert_allclose(old.to_keras("y")(rows), wanted, rtol=1e-6, atol=3e-7)
    assert old.report["made"][-1]["native"]
