"""Recurrent networks in graphs, as TensorFlow 1 wrote them with loops of both kinds: layers of Keras that compute the same."""
import keras
import numpy as np
import pytest
import tensorflow as tf

import transferlit as tl

v1 = tf.compat.v1
KEEP = {} # the placeholder of the graph that is built
X = np.random.default_rng(1).normal(size=(4, 6, 3)).astype("float32")


@pytest.fixture(autouse=True, params=["switch and merge", "while with functions"])
def loops(request):
    (v1.disable_control_flow_v2 if request.param[0] == "s" else v1.enable_control_flow_v2)()
    yield
    v1.enable_control_flow_v2()


def held(name, *shape):
    return v1.get_variable(name, initializer=(.4*np.random.default_rng(sum(map(ord, name))).normal(size=shape)).astype("float32"), use_resource=False)


def affine(x, size, name):
    with v1.variable_scope(name): return tf.nn.bias_add(tf.matmul(x, held("kernel", x.shape[-1], size)), held("bias", size))


def lstm(x, states, units=4, name="lstm_cell"):
    h, c = states
    i, j, f, o = tf.split(affine(tf.concat([x, h], 1), 4*units, name), 4, 1)
    c = tf.sigmoid(f + 1.)*c + tf.sigmoid(i)*tf.tanh(j)
    h = tf.sigmoid(o)*tf.tanh(c)
    return h, (h, c)


def gru(x, states, units=4):
    h, = states
    r, z = tf.split(tf.sigmoid(affine(tf.concat([x, h], 1), 2*units, "gates")), 2, 1)
    h = z*h + (1 - z)*tf.tanh(affine(tf.concat([x, r*h], 1), units, "candidate"))
    return h, (h,)


def basic(x, states, units=4):
    h = tf.tanh(affine(tf.concat([x, states[0]], 1), units, "basic_cell"))
    return h, (h,)


def reset_first(x, states, units=4):
    "The GRU of Keras 2, as it was by default: one kernel for the state, multiplied in two parts."
    h, = states
    kernel, recurrent = held("kernel", 3, 3*units), held("recurrent", units, 3*units)
    new = tf.nn.bias_add(tf.matmul(x, kernel), held("bias", 3*units))
    z, r = tf.split(tf.sigmoid(new[:, :2*units] + tf.matmul(h, recurrent[:, :2*units])), 2, 1)
    h = z*h + (1 - z)*tf.tanh(new[:, 2*units:] + tf.matmul(r*h, recurrent[:, 2*units:]))
    return h, (h,)


def hard_gates(x, states, units=4):
    "The LSTM of Keras 2 before 2.3."
    def hard(x): return tf.clip_by_value(.2*x + .5, 0., 1.)
    h, c = states
    gates = tf.nn.bias_add(tf.matmul(x, held("kernel", 3, 4*units)) + tf.matmul(h, held("recurrent", units, 4*units)), held("bias", 4*units))
    i, f, j, o = tf.split(gates, 4, 1)
    c = hard(f)*c + hard(i)*tf.tanh(j)
    h = hard(o)*tf.tanh(c)
    return h, (h, c)


def gate_by_gate(x, states, units=4):
    "The LSTM of Keras as `implementation=1` computes it: slices of the kernels, one product a gate."
    h, c = states
    kernel, recurrent, bias = held("kernel", 3, 4*units), held("recurrent", units, 4*units), held("bias", 4*units)
    gates = []
    for start in range(0, 4*units, units):
        part = slice(start, start + units)
        gates.append(tf.nn.bias_add(tf.matmul(x, kernel[:, part]), bias[part]) + tf.matmul(h, recurrent[:, part]))
    i, f, j, o = gates
    c = tf.sigmoid(f)*c + tf.sigmoid(i)*tf.tanh(j)
    h = tf.sigmoid(o)*tf.tanh(c)
    return h, (h, c)


def fused_lstm(x, states, units=4):
    "`contrib.rnn.LSTMBlockCell`: a cell in one operation."
    h, c = states
    kernel, bias, none = held("kernel", 3 + units, 4*units), held("bias", 4*units), tf.zeros([units])
    found = tf.raw_ops.LSTMBlockCell(x=x, cs_prev=c, h_prev=h, w=kernel, wci=none, wcf=none, wco=none, b=bias, cell_clip=-1.)
    return found.h, (found.h, found.cs)


def fused_gru(x, states, units=4):
    kernels, biases = (held("gates", 3 + units, 2*units), held("new", 3 + units, units)), (held("gates_bias", 2*units), held("new_bias", units))
    *_, h = tf.raw_ops.GRUBlockCell(x=x, h_prev=states[0], w_ru=kernels[0], w_c=kernels[1], b_ru=biases[0], b_c=biases[1])
    return h, (h,)


def two_lstms(x, states):
    h, first = lstm(x, states[:2], 4, "cell_0")
    h, second = lstm(h, states[2:], 5, "cell_1")
    return h, (*first, *second)


def dropped(x, states):
    keep = KEEP["now"]
    h, states = lstm(x, states)
    return h/keep*tf.floor(keep + tf.random.uniform(tf.shape(h))), states


def with_one_mask(x, states):
    "`variational_recurrent`: the noise is drawn once, outside of the loop."
    keep = KEEP["now"]
    h, states = lstm(x, states)
    return h/keep*tf.floor(keep + KEEP["noise"]), states


def with_ones(x, states):
    "Dropout of Keras at inference: what would be the masks are ones, made outside of the loop."
    return gru(x*KEEP["ones"], (states[0]*KEEP["filled"],))


def leaking(x, states):
    h, (_, c) = lstm(x, states)
    return h, (h, c + .1*h)


def network(cell, sizes, last=True):
    """`dynamic_rnn` written out, and a layer behind it."""
    x = v1.placeholder(tf.float32, [None, 6, 3], "x")
    KEEP["now"] = v1.placeholder_with_default(1., [], "keep")
    steps, rows = tf.transpose(x, [1, 0, 2]), tf.shape(x)[0]
    KEEP["noise"], KEEP["ones"], KEEP["filled"] = tf.random.uniform([rows, 4]), tf.ones_like(x[:, 0]), tf.fill([rows, 4], 1.)
    count = tf.shape(steps)[0]
    given, results = tf.TensorArray(tf.float32, count).unstack(steps), tf.TensorArray(tf.float32, count)

    def body(t, found, *states):
        h, states = cell(tf.ensure_shape(given.read(t), [None, 3]), states)
        return (t + 1, found.write(t, h), *states)

    _, found, *states = v1.while_loop(lambda t, *_: t < count, body, (0, results, *(tf.zeros([rows, n]) for n in sizes)))
    y = tf.transpose(found.stack(), [1, 0, 2])[:, -1] if last else states[0]
    tf.matmul(tf.ensure_shape(y, [None, sizes[-1]]), held("out/kernel", sizes[-1], 2), name="y")


def kept(folder, build, *feeds):
    "Save a graph whose output is `y`; what a session computes for each of some feeds."
    with tf.Graph().as_default(), v1.Session() as session:
        build()
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder/"rnn.ckpt"))
        return [session.run("y:0", {f"{name}:0": array for name, array in feed.items()}) for feed in feeds]


def compared(folder, build, *feeds, atol=1e-5):
    "The model of a graph, which computes what the graph does, and what the report says of it."
    truths, old = kept(folder, build, *feeds), tl.revive(folder/"rnn.ckpt")
    model = old.to_keras("y:0")
    for feed, truth in zip(feeds, truths):
        given = [feed[t.name] for t in model.inputs]
        np.testing.assert_allclose(model(given if len(given) > 1 else given[0]), truth, atol=atol)
    return model, old.report["made"][-1]


def revived(folder, *args):
    model, made = compared(folder, lambda: network(*args), {"x": X}, {"x": X[:2]})
    return [type(l).__name__ for l in model.layers], made


@pytest.mark.parametrize("cell, sizes, last, kinds", [
    (lstm, (4, 4), True, ["LSTM"]), (lstm, (4, 4), False, ["LSTM"]), (gru, (4,), True, ["GRU"]), (reset_first, (4,), True, ["GRU"]), (hard_gates, (4, 4), True, ["LSTM"]), (gate_by_gate, (4, 4), True, ["LSTM"]), (basic, (4,), False, ["SimpleRNN"]), (fused_lstm, (4, 4), True, ["LSTM"]), (fused_gru, (4,), False, ["GRU"]),
    (two_lstms, (4, 4, 5, 5), True, ["LSTM", "LSTM"]), (dropped, (4, 4), True, ["LSTM"]),
    (with_one_mask, (4, 4), True, ["LSTM"]), (with_ones, (4,), True, ["GRU"]), (with_ones, (4,), False, ["GRU"])], ids=lambda p: getattr(p, "__name__", None))
def test_loops_become_layers(cell, sizes, last, kinds, tmp_path):
    found, made = revived(tmp_path, cell, sizes, last)
    assert [k for k in found if k in ("LSTM", "GRU", "SimpleRNN")] == kinds and made["native"]


@pytest.mark.parametrize("steps", [6, None])
def test_a_sequence_in_one_operation_is_a_layer(steps, tmp_path):
    "`contrib.rnn.LSTMBlockFusedCell`, time first; fewer steps than it is told of would end the process."
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [steps, None, 3], "x")
        zeros, none = tf.zeros([tf.shape(x)[1], 4]), tf.zeros([4])
        count = tf.cast(tf.constant(steps) if steps else tf.shape(x)[0], tf.int64)
        found = tf.raw_ops.BlockLSTM(seq_len_max=count, x=x, cs_prev=zeros, h_prev=zeros, w=held("kernel", 7, 16), wci=none, wcf=none, wco=none, b=held("bias", 16), cell_clip=-1.)
        tf.matmul(tf.ensure_shape(found.h[-1], [None, 4]), held("out", 4, 2), name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path/"rnn.ckpt"))
        truth = session.run("y:0", {"x:0": X.swapaxes(0, 1)})
    old = tl.revive(tmp_path/"rnn.ckpt")
    model = old.to_keras("y:0")
    np.testing.assert_allclose(model(X.swapaxes(0, 1)), truth, atol=1e-5)
    assert "LSTM" in [type(l).__name__ for l in model.layers] and old.report["made"][-1]["native"]


def test_another_cell_is_a_cell_of_its_own(tmp_path):
    found, made = revived(tmp_path, leaking, (4, 4))
    assert "RNN" in found and made["native"]


def test_a_cell_that_no_layer_is_stays_a_piece_of_the_graph_and_says_why(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 6, 3], "x")
        kernel = held("kernel", 7, 4)

        def body(t, h):
            step = tf.gather(x, t, axis=1)
            return t + 1, tf.tanh(tf.matmul(tf.concat([step, h], 1), kernel))*tf.cast(t + 1, tf.float32)

        _, h = v1.while_loop(lambda t, h: t < 6, body, (0, tf.zeros([tf.shape(x)[0], 4])))
        tf.matmul(tf.ensure_shape(h, [None, 4]), held("out", 4, 2), name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path/"rnn.ckpt"))
        truth = session.run("y:0", {"x:0": X})
    old = tl.revive(tmp_path/"rnn.ckpt")
    np.testing.assert_allclose(old.to_keras("y:0")(X), truth, atol=1e-5)
    made = old.report["made"][-1]
    assert not made["native"] and any("sequences" in why for why in made["refused"])


def test_a_variable_that_is_read_inside_a_piece(tmp_path):
    "A resource enters the loop; the piece of the graph gets what it holds."
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 3], "x")
        kernel = v1.get_variable("kernel", [3, 3], use_resource=True)
        _, h = v1.while_loop(lambda t, h: t < 3, lambda t, h: (t + 1, tf.tanh(tf.matmul(h, kernel.read_value()))), (0, x))
        tf.matmul(tf.ensure_shape(h, [None, 3]), held("out", 3, 2), name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path/"loop.ckpt"))
        truth = session.run("y:0", {"x:0": X[0]})
    model = tl.revive(tmp_path/"loop.ckpt").to_keras("y:0")
    np.testing.assert_allclose(model(X[0]), truth, atol=1e-5)


def test_an_array_of_a_loop_is_no_variable(tmp_path):
    "Its size comes from what a variable, read by its handle, gives."
    def build():
        ids = v1.placeholder(tf.int32, [None, 6], "ids")
        table = v1.get_variable("table", [20, 3], use_resource=True)
        _, (h,) = one_way(tf.nn.embedding_lookup(table, ids), gru, (4,), False)
        tf.identity(h, "y")
    ids = np.random.default_rng(2).integers(0, 20, (4, 6))
    model, made = compared(tmp_path, build, {"ids": ids}, {"ids": ids[:2]})
    assert made["native"] and {"Embedding", "GRU"} <= {type(l).__name__ for l in model.layers}


def test_a_step_beside_the_loop_is_no_output(tmp_path):
    "Keras tries a cell once outside of its loop, and leaves it there: it holds less of the training than the head does."
    def build():
        x = v1.placeholder(tf.float32, [None, 6, 3], "x")
        h = affine(affine(x[:, 0], 4, "one"), 4, "two")
        training = v1.placeholder_with_default(False, [], "keras_learning_phase")
        drawn = v1.cond(training, lambda: h*tf.floor(tf.random.uniform(tf.shape(h)) + .5)*2., lambda: tf.identity(h))
        affine(drawn, 2, "logits")
        with v1.variable_scope(v1.get_variable_scope(), reuse=True):
            tried = affine(affine(x[:, 1], 4, "one"), 4, "two")
            tf.add(tried*v1.cond(training, lambda: tf.random.uniform(tf.shape(h)), lambda: tf.ones_like(h)), 1.)
        tf.identity(h, "y")
    kept(tmp_path, build)
    old = tl.revive(tmp_path/"rnn.ckpt")
    old.to_keras()
    assert old.report["made"][-1]["outputs"] == ["logits/BiasAdd:0"]


def test_a_mask_beside_given_states(tmp_path):
    "As Keras 2 writes it: where a step does not count, the result of the one before goes round, from zeros, beside the state."
    def build():
        x, inside, h = v1.placeholder(tf.float32, [None, 6, 3], "x"), v1.placeholder(tf.bool, [None, 6], "inside"), v1.placeholder(tf.float32, [None, 4], "h")
        steps, mask = tf.transpose(x, [1, 0, 2]), tf.transpose(inside[..., None], [1, 0, 2])
        given, masks = tf.TensorArray(tf.float32, 6).unstack(steps), tf.TensorArray(tf.bool, 6).unstack(mask)

        def body(t, found, last, h):
            new, _ = gru(tf.ensure_shape(given.read(t), [None, 3]), (h,))
            counts = tf.tile(tf.ensure_shape(masks.read(t), [None, 1]), [1, 4])
            result = tf.where(counts, new, last)
            return t + 1, found.write(t, result), result, tf.where(counts, new, h)

        _, found, _, h = v1.while_loop(lambda t, *_: t < 6, body, (0, tf.TensorArray(tf.float32, 6), tf.zeros_like(h), h))
        tf.concat([tf.reduce_sum(tf.ensure_shape(found.stack(), [6, None, 4]), 0), h], 1, name="y")
    rng = np.random.default_rng(3)
    full = {"x": X, "inside": rng.random((4, 6)) < .6, "h": rng.normal(size=(4, 4)).astype("float32")}
    model, made = compared(tmp_path, build, full, {name: array[:2] for name, array in full.items()})
    assert made["native"] and "GRU" in [type(l).__name__ for l in model.layers], made["refused"]


def one_way(x, cell, sizes, backwards):
    "A loop over the sequence from one end, as `dynamic_rnn` writes it: all results, last states."
    steps, rows = tf.transpose(tf.reverse(x, [1]) if backwards else x, [1, 0, 2]), tf.shape(x)[0]
    count = tf.shape(steps)[0]
    given, results = tf.TensorArray(tf.float32, count).unstack(steps), tf.TensorArray(tf.float32, count)

    def body(t, found, *states):
        h, states = cell(tf.ensure_shape(given.read(t), [None, x.shape[-1]]), states)
        return (t + 1, found.write(t, h), *states)

    _, found, *states = v1.while_loop(lambda t, *_: t < count, body, (0, results, *(tf.zeros([rows, n]) for n in sizes)))
    y = tf.ensure_shape(tf.transpose(found.stack(), [1, 0, 2]), [None, 6, sizes[0]])
    return (tf.reverse(y, [1]) if backwards else y), states


def both_ways(x, cell, sizes, scope="both"):
    with v1.variable_scope(scope):
        with v1.variable_scope("fw"): front = one_way(x, cell, sizes, False)
        with v1.variable_scope("bw"): back = one_way(x, cell, sizes, True)
    return front, back


def joined(x):
    (a, _), (b, _) = both_ways(x, gru, (4,))
    return tf.concat([a, b], 2)[:, 3]


def added(x):
    (a, _), (b, _) = both_ways(x, lstm, (4, 4))
    return tf.reduce_mean(a + b, 1)


def last_states(x):
    (_, a), (_, b) = both_ways(x, lstm, (4, 4))
    return tf.concat([a[1], b[0], a[0]], 1)


def one_over_the_other(x):
    (a, _), (b, _) = both_ways(x, basic, (4,))
    (a, _), (b, _) = both_ways(tf.concat([a, b], 2), gru, (4,), "above")
    return tf.concat([a, b], 2)[:, 0]


def of_different_size(x):
    front, _ = one_way(x, lstm, (4, 4), False)
    with v1.variable_scope("bw"): back, _ = one_way(x, gru, (4,), True)
    return tf.concat([front, back], 2)[:, 2]


@pytest.mark.parametrize("build, count", [(joined, 1), (added, 1), (last_states, 1), (one_over_the_other, 2), (of_different_size, 0)], ids=lambda p: getattr(p, "__name__", None))
def test_two_loops_from_both_ends_are_bidirectional(build, count, tmp_path):
    model, made = compared(tmp_path, lambda: tf.identity(build(v1.placeholder(tf.float32, [None, 6, 3], "x")), "y"), {"x": X}, {"x": X[:2]})
    assert [type(l).__name__ for l in model.layers].count("Bidirectional") == count and made["native"]
    model.save(tmp_path/"new.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path/"new.keras")(X), model(X), atol=1e-5)


@pytest.mark.parametrize("cell, sizes, backwards, take, kinds", [
    (lstm, (4, 4), False, lambda hs, _: hs[-1], ["LSTM"]), (two_lstms, (4, 4, 5, 5), False, lambda hs, states: hs[-1] + states[3] + hs[1], ["LSTM", "LSTM"]), (lstm, (4, 4), True, lambda hs, states: hs[-1] + states[1], ["LSTM"]),
    (gru, (4,), False, lambda hs, _: tf.reduce_mean(tf.stack(hs, 1), 1), ["GRU"]), (basic, (4,), False, lambda hs, _: hs[2] - hs[-1], ["SimpleRNN"]), (leaking, (4, 4), False, lambda hs, _: hs[-1], [])])
def test_steps_written_out_are_a_layer(cell, sizes, backwards, take, kinds, tmp_path):
    def build():
        x, hs = v1.placeholder(tf.float32, [None, 6, 3], "x"), []
        states = tuple(tf.zeros([tf.shape(x)[0], n]) for n in sizes)
        for step in tf.unstack(x, 6, 1)[::-1 if backwards else 1]:
            with v1.variable_scope("rnn", reuse=v1.AUTO_REUSE): h, states = cell(step, states)
            hs.append(h)
        tf.identity(take(hs, states), "y")
    model, made = compared(tmp_path, build, {"x": X}, {"x": X[:2]})
    assert [k for k in (type(l).__name__ for l in model.layers) if k in ("LSTM", "GRU", "SimpleRNN")] == kinds and made["native"]


@pytest.mark.parametrize("cut", [
    lambda x: [tf.squeeze(step, 1) for step in tf.split(x, 6, 1)], lambda x: [x[:, t] for t in range(6)],
    lambda x: tf.split(tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, 3]), 6, 0), lambda x: tf.unstack(tf.transpose(x, [1, 0, 2]))], ids=["split", "slices", "rows", "time first"])
def test_steps_however_they_are_cut_out(cut, tmp_path):
    def build():
        x = v1.placeholder(tf.float32, [None, 6, 3], "x")
        states = (tf.zeros([tf.shape(x)[0], 4]),)
        for step in cut(x):
            with v1.variable_scope("rnn", reuse=v1.AUTO_REUSE): h, states = gru(step, states)
        tf.identity(h, "y")
    model, _ = compared(tmp_path, build, {"x": X}, {"x": X[:2]})
    assert [type(l).__name__ for l in model.layers] == ["InputLayer", "GRU"]


def residual(x, states):
    h, states = gru(x, states, 3)
    return x + h, states


def one_state(x, states):
    "`state_is_tuple=False`, as it was at first."
    c, h = tf.split(states[0], 2, 1)
    h, (h, c) = lstm(x, (h, c))
    return h, (tf.concat([c, h], 1),)


def peepholes(x, states):
    h, c = states
    i, j, f, o = tf.split(affine(tf.concat([x, h], 1), 16, "cell"), 4, 1)
    c = tf.sigmoid(f + 1. + c*held("w_f", 4))*c + tf.sigmoid(i + c*held("w_i", 4))*tf.tanh(j)
    h = tf.sigmoid(o + c*held("w_o", 4))*tf.tanh(c)
    return h, (h, c)


def projected(x, states):
    c, h = states
    h, (_, c) = lstm(x, (h, c), 5)
    h = tf.matmul(h, held("projection", 5, 3))
    return h, (c, h)


@pytest.mark.parametrize("cell, sizes, last, kinds", [(residual, (3,), True, ["GRU"]), (one_state, (8,), False, ["LSTM"])])
def test_cells_in_wrappers(cell, sizes, last, kinds, tmp_path):
    found, made = revived(tmp_path, cell, sizes, last)
    assert [k for k in found if k in ("LSTM", "GRU")] == kinds and made["native"]


def clipped(x, states):
    h, (_, c) = lstm(x, states)
    c = tf.clip_by_value(c, -.2, .2)
    return h, (tf.tanh(c), c)


def normalized(x, states):
    "A layer normalization of what goes into the gates."
    z = affine(tf.concat([x, states[0]], 1), 4, "cell")
    mean, variance = tf.nn.moments(z, [1], keepdims=True)
    h = tf.tanh((z - mean)*tf.math.rsqrt(variance + 1e-5)*held("gamma", 4) + held("beta", 4))
    return h, (h,)


def highway(x, states):
    "Two products one after the other: a recurrent highway."
    h, = states
    for depth, step in enumerate((tf.concat([x, h], 1), None)):
        step = h if step is None else step
        gate, new = tf.sigmoid(affine(step, 4, f"gate{depth}") - 1.), tf.tanh(affine(step, 4, f"new{depth}"))
        h = gate*new + (1. - gate)*h
    return h, (h,)


@pytest.mark.parametrize("cell, sizes, last", [(peepholes, (4, 4), True), (projected, (5, 3), True), (clipped, (4, 4), True), (clipped, (4, 4), False), (normalized, (4,), True), (highway, (4,), False)], ids=lambda p: getattr(p, "__name__", None))
def test_what_keras_has_no_cell_for_is_a_cell_of_its_own(cell, sizes, last, tmp_path):
    found, made = revived(tmp_path, cell, sizes, last)
    assert "RNN" in found and made["native"], made["refused"]


@pytest.mark.parametrize("cell, sizes", [(peepholes, (4, 4)), (normalized, (4,))], ids=lambda p: getattr(p, "__name__", None))
def test_a_cell_of_its_own_is_saved_trained_and_masked(cell, sizes, tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        x, n = v1.placeholder(tf.float32, [None, None, 3], "x"), v1.placeholder(tf.int32, [None], "n")
        found, _ = v1.nn.dynamic_rnn(Cell(cell, sizes), x, n, dtype=tf.float32)
        tf.identity(found, name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path/"rnn.ckpt"))
        truths = [session.run("y:0", {"x:0": X[:r, :s], "n:0": LENGTHS[:r]}) for r, s in ((4, 6), (2, 6))]
    old = tl.revive(tmp_path/"rnn.ckpt")
    model = old.to_keras("y:0")
    assert old.report["made"][-1]["native"] and "RNN" in [type(l).__name__ for l in model.layers]
    model.save(tmp_path/"rnn.keras")
    again = keras.models.load_model(tmp_path/"rnn.keras")
    for rows, truth in zip((4, 2), truths):
        for m in (model, again): np.testing.assert_allclose(m([X[:rows], LENGTHS[:rows]]), truth, atol=1e-5)
    before = [np.array(w) for w in model.trainable_weights]
    model.compile("sgd", "mse")
    model.fit([X, LENGTHS], np.ones_like(truths[0]), verbose=0)
    assert before and all(np.any(b != np.array(w)) for b, w in zip(before, model.trainable_weights))


class Cell:
    "What `dynamic_rnn` asks of a cell."
    def __init__(self, step, sizes): self.step, self.state_size, self.output_size = step, sizes, sizes[-1]
    def __call__(self, x, states, scope=None): return self.step(x, states)
    def zero_state(self, rows, dtype): return tuple(tf.zeros([rows, n], dtype) for n in self.state_size)
    def get_initial_state(self, inputs=None, batch_size=None, dtype=None): return self.zero_state(batch_size, dtype)


LENGTHS = np.array([6, 2, 1, 4])


def ends(x, n):
    _, (h, c) = v1.nn.dynamic_rnn(Cell(lstm, (4, 4)), x, n, dtype=tf.float32)
    return tf.concat([h, c], 1)


def sequences(x, n):
    y, _ = v1.nn.dynamic_rnn(Cell(gru, (4,)), x, n, dtype=tf.float32)
    return tf.reduce_sum(y, 1)


def mean_over_padding(x, n):
    "Behind the loop the graph knows of no mask: its mean takes the zeros, too, and so does what reads on."
    y, _ = v1.nn.dynamic_rnn(Cell(gru, (4,)), x, n, dtype=tf.float32)
    y = tf.ensure_shape(y, [None, 6, 4])
    with v1.variable_scope("above"): _, (h,) = v1.nn.dynamic_rnn(Cell(basic, (4,)), y, dtype=tf.float32)
    return tf.reduce_mean(y, 1) + h


def two_over_lengths(x, n):
    y, states = v1.nn.dynamic_rnn(Cell(two_lstms, (4, 4, 5, 5)), x, n, dtype=tf.float32)
    return tf.concat([tf.reduce_max(y, 1), states[1]], 1)


def from_both_ends(x, n):
    both, _ = v1.nn.bidirectional_dynamic_rnn(Cell(gru, (4,)), Cell(gru, (4,)), x, n, dtype=tf.float32)
    return tf.reduce_max(tf.concat(both, 2), 1)


def states_from_both_ends(x, n):
    _, ((a,), (b, _)) = v1.nn.bidirectional_dynamic_rnn(Cell(gru, (4,)), Cell(lstm, (4, 4)), x, n, dtype=tf.float32)
    return tf.concat([a, b], 1)


def stack_from_the_end(x, n):
    turned = tf.reverse_sequence(x, n, seq_axis=1, batch_axis=0)
    y, _ = v1.nn.dynamic_rnn(Cell(two_lstms, (4, 4, 5, 5)), turned, n, dtype=tf.float32)
    return tf.reduce_sum(tf.reverse_sequence(y, n, seq_axis=1, batch_axis=0)*tf.reshape(tf.range(6.), [1, 6, 1]), 1)


def lengths_of_padding(x, n):
    inside = tf.sequence_mask(n, 6, tf.float32)
    counted = tf.cast(tf.reduce_sum(tf.sign(tf.reduce_max(tf.abs(x*inside[..., None]), 2)), 1), tf.int32)
    return v1.nn.dynamic_rnn(Cell(basic, (4,)), x, counted, dtype=tf.float32)[1][0]


@pytest.mark.parametrize("build, kinds", [
    (ends, ["LSTM"]), (sequences, ["GRU"]), (mean_over_padding, ["GRU", "SimpleRNN"]), (two_over_lengths, ["LSTM", "LSTM"]), (from_both_ends, ["Bidirectional"]),
    (states_from_both_ends, ["GRU", "LSTM"]), (stack_from_the_end, ["LSTM", "LSTM"]), (lengths_of_padding, ["SimpleRNN"])], ids=lambda p: getattr(p, "__name__", None))
def test_rows_of_different_lengths_are_masked(build, kinds, tmp_path):
    def whole(): tf.identity(build(v1.placeholder(tf.float32, [None, 6, 3], "x"), v1.placeholder(tf.int32, [None], "n")), "y")
    feed = dict(x=X, n=LENGTHS)
    model, _ = compared(tmp_path, whole, feed)
    assert sorted(type(l).__name__ for l in model.layers if isinstance(l, (keras.layers.RNN, keras.layers.Bidirectional))) == kinds
    model.save(tmp_path/"new.keras")
    given = [feed[t.name] for t in model.inputs]
    np.testing.assert_allclose(keras.models.load_model(tmp_path/"new.keras")(given), model(given), atol=1e-5)


def unrolled(cell, sizes, take):
    x, n = v1.placeholder(tf.float32, [None, 6, 3], "x"), v1.placeholder(tf.int32, [None], "n")
    found, states = v1.nn.static_rnn(Cell(cell, sizes), tf.unstack(x, 6, 1), sequence_length=n, dtype=tf.float32)
    tf.matmul(tf.ensure_shape(take(found, states), [None, sizes[0]]), held("out", sizes[0], 2), name="y")


@pytest.mark.parametrize("cell, sizes, kind", [(lstm, (4, 4), "LSTM"), (gru, (4,), "GRU"), (basic, (4,), "SimpleRNN")], ids=lambda p: getattr(p, "__name__", None))
@pytest.mark.parametrize("take", [lambda found, states: found[-1], lambda found, states: states[0], lambda found, states: tf.add_n(found)], ids=["last result", "state", "all"])
def test_steps_written_out_with_lengths_are_a_layer_with_a_mask(cell, sizes, kind, take, tmp_path):
    "`static_rnn` forks at each step on whether all rows, or none, are over."
    lengths = np.array([6, 2, 0, 4])
    cases = [(X, lengths), (X[:2], lengths[:2]), (X, np.full(4, 6)), (X, np.array([3, 1, 0, 2]))]
    model, made = compared(tmp_path, lambda: unrolled(cell, sizes, take), *(dict(x=x, n=n) for x, n in cases))
    assert made["native"], made["pieces"]
    assert kind in [type(l).__name__ for l in model.layers]


def test_a_fork_about_lengths_that_does_something_else_stays(tmp_path):
    "Its branches are no choice between rows: which is taken counts."
    v1.disable_control_flow_v2()
    with tf.Graph().as_default(), v1.Session() as session:
        x, n = v1.placeholder(tf.float32, [None, 3], "x"), v1.placeholder(tf.int32, [None], "n")
        h = tf.tanh(tf.matmul(x, held("kernel", 3, 3)))
        kept = v1.cond(tf.reduce_max(n) <= 3, lambda: x*2., lambda: v1.where(n <= 3, x, h))
        tf.matmul(tf.ensure_shape(kept, [None, 3]), held("out", 3, 2), name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path/"fork.ckpt"))
        cases = [np.array([1, 2]), np.array([1, 5]), np.array([4, 5])]
        truths = [session.run("y:0", {"x:0": X[0, :2], "n:0": n}) for n in cases]
    model = tl.revive(tmp_path/"fork.ckpt").to_keras("y:0")
    for n, truth in zip(cases, truths): np.testing.assert_allclose(model([X[0, :2], n]), truth, atol=1e-5)


def test_a_row_that_starts_anew_is_no_mask(tmp_path):
    "Where a row is over, the state is set back to zeros, not kept."
    def body(t, h, x, n):
        over = tf.tile((t >= n)[:, None], [1, 4])
        return t + 1, tf.where(over, tf.zeros_like(h), basic(x[:, t], (h,))[0])
    with tf.Graph().as_default(), v1.Session() as session:
        x, n = v1.placeholder(tf.float32, [None, 6, 3], "x"), v1.placeholder(tf.int32, [None], "n")
        _, h = v1.while_loop(lambda t, h: t < 6, lambda t, h: body(t, h, x, n), (0, tf.zeros([tf.shape(x)[0], 4])))
        tf.identity(h, "y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path/"rnn.ckpt"))
        truth = session.run("y:0", {"x:0": X, "n:0": LENGTHS})
    model = tl.revive(tmp_path/"rnn.ckpt").to_keras("y:0")
    np.testing.assert_allclose(model([{"x": X, "n": LENGTHS}[t.name] for t in model.inputs]), truth, atol=1e-5)


def from_a_state(x, s):
    h, c = s
    return v1.nn.dynamic_rnn(Cell(lstm, (4, 4)), x, initial_state=(h, c))[1][0]


def decoded(x, s):
    with v1.variable_scope("encoder"): _, states = v1.nn.dynamic_rnn(Cell(gru, (4,)), x, initial_state=s[:1])
    with v1.variable_scope("decoder"): return v1.nn.dynamic_rnn(Cell(gru, (4,)), x[:, ::-1], initial_state=states)[0][:, 2]


@pytest.mark.parametrize("build, kinds", [(from_a_state, ["LSTM"]), (decoded, ["GRU", "GRU"])])
def test_a_loop_that_starts_from_a_given_state(build, kinds, tmp_path):
    given = {name: np.random.default_rng(i).normal(size=(4, 4)).astype("float32") for i, name in enumerate("hc")} | {"x": X}
    with tf.Graph().as_default(), v1.Session() as session:
        x, states = v1.placeholder(tf.float32, [None, 6, 3], "x"), tuple(v1.placeholder(tf.float32, [None, 4], n) for n in "hc")
        tf.identity(build(x, states), "y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path/"rnn.ckpt"))
        truth = session.run("y:0", {f"{name}:0": a for name, a in given.items()})
    old = tl.revive(tmp_path/"rnn.ckpt")
    model = old.to_keras("y:0")
    arrays = [given[t.name] for t in model.inputs]
    np.testing.assert_allclose(model(arrays), truth, atol=1e-5)
    assert [type(l).__name__ for l in model.layers if isinstance(l, keras.layers.RNN)] == kinds and old.report["made"][-1]["native"]
    model.save(tmp_path/"new.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path/"new.keras")(arrays), truth, atol=1e-5)


def test_a_loop_that_starts_from_variables(tmp_path):
    "As language models kept the state from one batch to the next; it is part of what the file holds."
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [4, 6, 3], "x")
        h = v1.dtypes.cast(held("memory", 4, 4), tf.float32)
        found, (h, c) = v1.nn.dynamic_rnn(Cell(lstm, (4, 4)), x, initial_state=(h, tf.zeros([4, 4])))
        tf.concat([found[:, 2], c], 1, name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path/"rnn.ckpt"))
        truth = session.run("y:0", {"x:0": X})
    old = tl.revive(tmp_path/"rnn.ckpt")
    model = old.to_keras("y:0")
    np.testing.assert_allclose(model(X), truth, atol=1e-5)
    assert "LSTM" in [type(l).__name__ for l in model.layers] and old.report["made"][-1]["native"]
    model.save(tmp_path/"new.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path/"new.keras")(X), truth, atol=1e-5)


def clipped_at(bound):
    def clipped_lstm(x, states, units=4):
        h, c = states
        i, j, f, o = tf.split(affine(tf.concat([x, h], 1), 4*units, "lstm_cell"), 4, 1)
        c = tf.clip_by_value(tf.sigmoid(f + 1.)*c + tf.sigmoid(i)*tf.tanh(j), -bound, bound)
        h = tf.sigmoid(o)*tf.tanh(c)
        return h, (h, c)
    return clipped_lstm


def bounded_basic(x, states, units=4):
    h = tf.nn.relu6(affine(tf.concat([x, states[0]], 1), units, "basic_cell"))
    return h, (h,)


@pytest.mark.parametrize("way", ["loop", "written out"])
@pytest.mark.parametrize("cell, sizes", [(clipped_at(3.), (4, 4)), (bounded_basic, (4,))], ids=lambda p: getattr(p, "__name__", None))
def test_a_bound_that_small_numbers_never_reach_is_not_lost(cell, sizes, way, tmp_path):
    def build():
        if way == "loop": network(cell, sizes)
        else:
            x = v1.placeholder(tf.float32, [None, 6, 3], "x")
            found, _ = v1.nn.static_rnn(Cell(cell, sizes), tf.unstack(x, 6, 1), dtype=tf.float32)
            tf.matmul(found[-1], held("out", 4, 2), name="y")
    _, made = compared(tmp_path, build, {"x": X}, {"x": 40*np.abs(X)}, atol=1e-4)
    assert made["native"]


@pytest.mark.parametrize("behind", [True, False], ids=["behind", "within"])
def test_another_choice_between_rows_is_no_length(behind, tmp_path):
    "A choice behind the cells is no part of them; one within them is no mask."
    def build():
        x, n = v1.placeholder(tf.float32, [None, 6, 3], "x"), v1.placeholder(tf.int32, [None], "n")
        h, none = tf.zeros([tf.shape(x)[0], 4]), tf.zeros([tf.shape(x)[0], 4])
        for t in range(6):
            new, _ = basic(x[:, t], (h,)) if not t else again(x[:, t], h)
            h = v1.where(n <= t, h, new) if behind or t % 2 else new
        if behind: h = v1.where(tf.greater(h[:, 0], 0.), h, none)
        tf.matmul(tf.ensure_shape(h, [None, 4]), held("out", 4, 2), name="y")
    compared(tmp_path, build, dict(x=X, n=LENGTHS), dict(x=X, n=np.array([1, 5, 6, 0])))


def again(x, h):
    with v1.variable_scope(v1.get_variable_scope(), reuse=True): return basic(x, (h,))
