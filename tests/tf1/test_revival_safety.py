"""A graph is a program: what it may do here. Operations that leave memory are refused before anything is run, wherever they hide."""
import base64
import json
import sys
import zipfile
import zlib

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.python.framework import op_def_registry

import transferlit as tl
from transferlit.tf1 import layers, revived
from transferlit.tf1.graph_files import COMPUTES, check_nodes, read_graph, safe
from transferlit.tf1.layers import GraphLayer, packed
from transferlit.errors import UnsafeFile
from transferlit.tf1.limits import TooLarge

v1, raw = tf.compat.v1, tf.raw_ops
X = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
KERNEL = np.arange(6, dtype="float32").reshape(3, 2)


def scalar(value): return tf.reshape(tf.cast(value, tf.float32), [-1])[:1]*0
def after(op, x):
    with tf.control_dependencies([op]): return tf.identity(x)


# Each does its deed to `path`, or with what lies there, on the way from its argument to what it returns.
DEEDS = {
    "WriteFile": lambda x, path: after(raw.WriteFile(filename=path, contents="by a graph"), x),
    "SaveV2": lambda x, path: after(raw.SaveV2(prefix=path, tensor_names=["x"], shape_and_slices=[""], tensors=[x]), x),
    "Save": lambda x, path: after(raw.Save(filename=path, tensor_names=["x"], data=[x]), x),
    "SaveSlices": lambda x, path: after(raw.SaveSlices(filename=path, tensor_names=["x"], shapes_and_slices=[""], data=[x]), x),
    "PrintV2": lambda x, path: after(raw.PrintV2(input="by a graph", output_stream=f"file://{path}"), x),
    "DebugIdentityV2": lambda x, path: raw.DebugIdentityV2(input=x, tfdbg_context_id="a", tensor_debug_mode=2, debug_urls=[f"file://{path}"]),
    "DebugIdentity": lambda x, path: raw.DebugIdentity(input=x, tensor_name="a", debug_urls=[f"file://{path}"]),
    "ReadFile": lambda x, path: x + scalar(tf.strings.length(raw.ReadFile(filename=path))),
    "MatchingFiles": lambda x, path: x + scalar(tf.size(raw.MatchingFiles(pattern=f"{path}*"))),
    "ImmutableConst": lambda x, path: x + scalar(raw.ImmutableConst(dtype=tf.float32, shape=[1], memory_region_name=path)),
    "RestoreV2": lambda x, path: x + scalar(raw.RestoreV2(prefix=path, tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32])[0]),
    "ReaderReadV2": lambda x, path: x + scalar(tf.strings.length(raw.ReaderReadV2(reader_handle=raw.TextLineReaderV2(),
                                                                                   queue_handle=raw.FIFOQueueV2(component_types=[tf.string]))[1])),
    "TFRecordDataset": lambda x, path: x + scalar(raw.DatasetCardinality(input_dataset=raw.TFRecordDataset(filenames=path, compression_type="", buffer_size=0))),
    "LoadDataset": lambda x, path: x + scalar(raw.DatasetCardinality(input_dataset=raw.LoadDataset(
        path=path, reader_func_other_args=[], output_types=[tf.float32], output_shapes=[[]], reader_func=tf.function(lambda x: x).get_concrete_function(
            tf.TensorSpec([])), compression=""))),
    "PyFunc": lambda x, path: tf.ensure_shape(v1.py_func(lambda a: open(path, "w") and a, [x], tf.float32), x.shape),
    "EagerPyFunc": lambda x, path: tf.ensure_shape(tf.py_function(lambda a: open(path, "w") and a, [x], tf.float32), x.shape),
    "ImageSummary": lambda x, path: x + scalar(tf.strings.length(raw.ImageSummary(tag="a", tensor=tf.zeros([1, 2, 2, 1])))),
    "CreateSummaryFileWriter": lambda x, path: after(raw.CreateSummaryFileWriter(writer=raw.SummaryWriter(), logdir=path, max_queue=1, flush_millis=1,
                                                                                 filename_suffix="a"), x),
    "InitializeTableFromTextFileV2": lambda x, path: after(raw.InitializeTableFromTextFileV2(
        table_handle=raw.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64), filename=path, key_index=-2, value_index=-1), x),
    "NcclAllReduce": lambda x, path: raw.NcclAllReduce(input=x, reduction="sum", num_devices=1, shared_name="a"),
    "CollectiveReduce": lambda x, path: raw.CollectiveReduce(input=x, group_size=1, group_key=1, instance_key=1, merge_op="Add", final_op="Id", subdiv_offsets=[0]),
}


def bare(x, path, deed): return deed(x, path)
def function(x, path, deed): return tf.function(lambda t: deed(t, path))(x)
def nested(x, path, deed): return tf.function(lambda t: function(t, path, deed))(x)
def loop(x, path, deed): return tf.while_loop(lambda i, t: i < 1, lambda i, t: (i + 1, tf.ensure_shape(deed(t, path), x.shape)), [0, x])[1]
def fork(x, path, deed): return tf.cond(tf.reduce_sum(x) > 0, lambda: deed(x, path), lambda: x*1.)
def unused(x, path, deed): return tf.function(lambda t: (deed(t, path), t*1.)[1])(x)
def beside(x, path, deed): return after(deed(tf.zeros([1, 3]), path), x)


PLACES = [bare, function, nested, loop, fork, unused, beside]


@pytest.fixture(params=["new", "old"])
def ways(request):
    """Loops and forks as functions, and as nodes of the graph itself."""
    if request.param == "old": v1.disable_control_flow_v2()
    yield request.param
    v1.enable_control_flow_v2()


def write(folder, build, name="graph.pb"):
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 3], "x")
        tf.identity(tf.matmul(build(x), tf.constant(KERNEL)), "out")
    (folder/name).write_bytes(graph.as_graph_def().SerializeToString())
    return folder/name


def prepared(tmp_path):
    """A place for the deed, and what may be in the folder afterwards."""
    place = tmp_path/"target"
    place.mkdir()
    return str(place/"a"), place


def test_everything_listed_is_an_operation():
    assert all(op_def_registry.get(op) for op in COMPUTES)


@pytest.mark.parametrize("op", DEEDS)
def test_deeds_are_not_listed(op): assert op not in COMPUTES


@pytest.mark.parametrize("op", DEEDS)
def test_refused_in_the_graph(op, tmp_path):
    path, place = prepared(tmp_path)
    old = tl.revive(write(tmp_path, lambda x: DEEDS[op](x, path)))
    repr(old)
    for make in (old.to_keras, old.as_layer):
        with pytest.raises(UnsafeFile, match=op): make(outputs="out")
    assert not list(place.iterdir())


@pytest.mark.parametrize("place", PLACES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("op", ["WriteFile", "PrintV2", "DebugIdentityV2", "MatchingFiles", "ReadFile", "PyFunc"])
def test_refused_wherever_it_hides(op, place, ways, tmp_path):
    path, target = prepared(tmp_path)
    old = tl.revive(write(tmp_path, lambda x: place(x, path, DEEDS[op])))
    repr(old)
    for make in (old.to_keras, old.as_layer):
        with pytest.raises(UnsafeFile, match=op): make(outputs="out")
    assert not list(target.iterdir())


@pytest.mark.parametrize("op", ["WriteFile", "SaveV2", "PrintV2", "ReadFile", "MatchingFiles"])
def test_refused_in_a_signature(op, tmp_path):
    path, place = prepared(tmp_path)
    module = tf.Module()
    module.serve = tf.function(lambda x: tf.matmul(DEEDS[op](x, path), KERNEL), input_signature=[tf.TensorSpec([None, 3], name="x")])
    tf.saved_model.save(module, str(tmp_path/"export"), signatures=module.serve)
    old = tl.revive(tmp_path/"export")
    repr(old)
    with pytest.raises(UnsafeFile, match=op): old.to_keras()
    with pytest.raises(UnsafeFile, match=op): old.as_layer()
    assert not list(place.iterdir())


def test_savers_and_initializers_are_there_and_not_run(tmp_path):
    """The restoring function of every SavedModel reads files; one more writes. Neither is on the way to an output."""
    path, place = prepared(tmp_path)
    module = tf.Module()
    module.kernel = tf.Variable(KERNEL)
    module.serve = tf.function(lambda x: tf.matmul(x, module.kernel), input_signature=[tf.TensorSpec([None, 3], name="x")])
    module.start = tf.function(lambda: after(raw.WriteFile(filename=path, contents="by a graph"), 1.), input_signature=[])
    tf.saved_model.save(module, str(tmp_path/"export"), signatures={"serving_default": module.serve, "__saved_model_init_op": module.start})
    meta = read_graph(tmp_path/"export"/"saved_model.pb")
    assert {"RestoreV2", "WriteFile"} <= {n.op for f in meta.graph_def.library.function for n in f.node_def}
    np.testing.assert_allclose(tl.revive(tmp_path/"export").to_keras()(X), X @ KERNEL, rtol=1e-5)
    assert not list(place.iterdir())


def test_deeds_beside_the_way_are_not_done(tmp_path):
    """A summary, a saver and a folded constant that nothing asks for."""
    path, place = prepared(tmp_path)
    def build(x):
        for op in ("WriteFile", "SaveV2", "MatchingFiles", "ImageSummary", "InitializeTableFromTextFileV2"): DEEDS[op](tf.constant([[1.]]), path)
        return x
    model = tl.revive(write(tmp_path, build)).to_keras(outputs="out")
    np.testing.assert_allclose(model(X), X @ KERNEL, rtol=1e-5)
    assert not list(place.iterdir())


def test_what_lies_before_the_input_is_not_run(tmp_path):
    """A model may begin behind files and queues; it is the whole original graph that it is compared with."""
    path, place = prepared(tmp_path)
    def build(x):
        read = after(raw.WriteFile(filename=path, contents="by a graph"), x)
        return tf.identity(read + scalar(tf.size(raw.MatchingFiles(pattern=path))), "begin")
    old = tl.revive(write(tmp_path, build))
    np.testing.assert_allclose(old.to_keras(inputs="begin", outputs="out")(X), X @ KERNEL, rtol=1e-5)
    assert old.report["made"][-1]["compared with"] == "the original graph"
    assert not list(place.iterdir())


@pytest.mark.parametrize("seed", range(8))
def test_drawn(seed, tmp_path):
    rng = np.random.default_rng(seed)
    path, target = prepared(tmp_path)
    op, place, outer = rng.choice(list(DEEDS)), *rng.choice(PLACES, 2)
    old = tl.revive(write(tmp_path, lambda x: outer(x, path, lambda t, p: place(t, p, DEEDS[op]))))
    with pytest.raises(UnsafeFile, match=str(op)): old.to_keras(outputs="out")
    assert not list(target.iterdir())


def with_deed(text, path):
    """The graph of a saved layer, with a file written on the way."""
    graph = graph_pb2.GraphDef.FromString(zlib.decompress(base64.b64decode(text)))
    with tf.Graph().as_default() as more: raw.WriteFile(filename=path, contents="by a graph")
    graph.node.extend(more.as_graph_def().node)
    return packed(graph)


@pytest.mark.parametrize("load", [keras.saving.load_model, lambda p: tl.revive(p).to_keras()], ids=["keras", "revive"])
def test_refused_when_a_keras_file_is_opened_again(load, tmp_path):
    path, place = prepared(tmp_path)
    layer = tl.revive(write(tmp_path, lambda x: x)).as_layer(outputs="out")
    x = keras.Input((3,))
    tl.save(keras.Model(x, layer(x)), tmp_path/"good.keras")
    with zipfile.ZipFile(tmp_path/"good.keras") as old, zipfile.ZipFile(tmp_path/"bad.keras", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json": data = json.dumps(changed(json.loads(data), path)).encode()
            new.writestr(name, data)
    np.testing.assert_allclose(load(tmp_path/"good.keras")(X), X @ KERNEL, rtol=1e-5)
    with pytest.raises(UnsafeFile, match="WriteFile"): load(tmp_path/"bad.keras")
    assert not list(place.iterdir())


def changed(config, path):
    if isinstance(config, list): return [changed(c, path) for c in config]
    if not isinstance(config, dict): return config
    return {k: with_deed(v, path) if k == "graph" else changed(v, path) for k, v in config.items()}


COSTS = {  # constants that TensorFlow computes when a graph is imported, for what they say of a size
    "filled": lambda: tf.reduce_sum(tf.fill(tf.constant([40_000, 30_000]), tf.constant(1))),
    "listed": lambda: raw.TensorListLength(input_handle=raw.TensorListResize(size=tf.constant(2_000_000_000), input_handle=raw.EmptyTensorList(
        element_shape=tf.constant([3]), max_num_elements=tf.constant(-1), element_dtype=tf.float32))),
    "written": lambda: tf.strings.length(tf.strings.as_string(tf.constant(1.), precision=2_000_000_000)),
}


LOADS = {"revive": lambda path: tl.revive(path, seconds=5, gigabytes=1), "keras": keras.saving.load_model}


@pytest.mark.parametrize("cost, load", [*((c, "revive") for c in COSTS), ("filled", "keras"), ("listed", "keras")])  # 2 GB of letters are allowed
def test_a_piece_of_a_graph_in_a_keras_file_takes_no_more_than_a_graph(cost, load, tmp_path):
    def build(x): return x + tf.cast(tf.size(tf.range(tf.constant(3, name="n"))), tf.float32)
    layer, x = GraphLayer(packed(read_graph(write(tmp_path, build)).graph_def), ["x:0"], ["out:0"]), keras.Input((3,))
    tl.save(keras.Model(x, layer(x)), tmp_path/"good.keras")
    with tf.Graph().as_default() as graph: tf.identity(COSTS[cost](), name="n")
    def put(config):
        if isinstance(config, list): return [put(c) for c in config]
        if not isinstance(config, dict): return config
        return {k: costly(v) if k == "graph" else put(v) for k, v in config.items()}
    def costly(text):
        piece = graph_pb2.GraphDef.FromString(zlib.decompress(base64.b64decode(text)))
        rest = [n for n in piece.node if n.name != "n"]
        assert len(rest) < len(piece.node)
        more = graph.as_graph_def()
        for node in more.node:
            if node.name != "n": node.name = f"more/{node.name}"
            node.input[:] = [f"more/{i}" for i in node.input]
        return packed(graph_pb2.GraphDef(node=[*more.node, *rest], versions=piece.versions, library=piece.library))
    with zipfile.ZipFile(tmp_path/"good.keras") as old, zipfile.ZipFile(tmp_path/"bad.keras", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, json.dumps(put(json.loads(data))) if name == "config.json" else data)
    assert tl.revive(tmp_path/"good.keras").to_keras()(X).shape == (2, 2)
    with pytest.raises(TooLarge): LOADS[load](tmp_path/"bad.keras")


def test_a_piece_that_was_made_or_has_passed_here_is_not_tried_again(tmp_path, monkeypatch):
    """A clone takes no child process; another process takes one, once."""
    def build(x): return tf.while_loop(lambda t: tf.reduce_sum(t) < 0., lambda t: t + 1., [x])[0]
    layer = tl.revive(write(tmp_path, build)).as_layer(outputs="out")
    asked, x = [], keras.Input((3,))
    monkeypatch.setattr(layers, "try_in_child", lambda *a: asked.append(a))
    model = keras.Model(x, layer(x))
    np.testing.assert_allclose(keras.models.clone_model(model)(abs(X)).shape, (2, 2))
    assert not asked
    layers.PASSED.clear()
    tl.save(model, tmp_path/"m.keras")
    for _ in range(2): np.testing.assert_allclose(keras.saving.load_model(tmp_path/"m.keras")(abs(X)), abs(X) @ KERNEL, rtol=1e-5)
    assert len(asked) == 1


def test_only_functions_that_are_called_are_kept(tmp_path):
    path = str(tmp_path/"a")
    def build(x):
        function(tf.zeros([1, 3]), path, DEEDS["WriteFile"])
        return tf.function(lambda t: t*2.)(x)
    graph = read_graph(write(tmp_path, build)).graph_def
    with pytest.raises(UnsafeFile, match="WriteFile"): safe(graph)
    wanted = tf.compat.v1.graph_util.extract_sub_graph(graph, ["out"])
    wanted.library.CopyFrom(graph.library)
    assert len(graph.library.function) == 2 and len(safe(wanted).library.function) == 1


def test_gradients_and_borrowed_names_are_followed(tmp_path):
    graph = read_graph(write(tmp_path, lambda x: function(x, str(tmp_path/"a"), lambda t, p: t*2.))).graph_def
    with tf.Graph().as_default() as other: function(tf.zeros([1, 3]), str(tmp_path/"a"), DEEDS["WriteFile"])
    writes = other.as_graph_def().library.function[0]
    graph.library.function.add().CopyFrom(writes)
    assert len(check_nodes(graph.node, graph.library)) == 1
    graph.library.gradient.add(function_name=graph.library.function[0].signature.name, gradient_func=writes.signature.name)
    with pytest.raises(UnsafeFile, match="WriteFile"): safe(graph)
    del graph.library.gradient[:]
    graph.library.function[-1].signature.name = "Identity"
    with pytest.raises(UnsafeFile, match="WriteFile"): safe(graph)


def test_a_layer_checks_what_it_is_given(tmp_path):
    with tf.Graph().as_default() as graph: tf.identity(DEEDS["PrintV2"](v1.placeholder(tf.float32, [None, 3], "x"), str(tmp_path/"a")), "out")
    layer = GraphLayer(packed(graph.as_graph_def()), ["x:0"], ["out:0"])
    with pytest.raises(UnsafeFile, match="PrintV2"): layer(X)
    with pytest.raises(UnsafeFile, match="PrintV2"): GraphLayer.from_config(layer.get_config())
    assert not list(tmp_path.iterdir())


def test_a_packed_graph_unpacks_to_no_more_than_there_may_be(tmp_path):
    """Zeros pack a thousandfold: 1 MB of a configuration would be a graph of 1 GB."""
    bomb = base64.b64encode(zlib.compress(bytes(100_000_000), 9)).decode()
    with pytest.raises(UnsafeFile, match="may take 67,108,864 bytes"): GraphLayer(bomb, ["x:0"], ["out:0"])(X)


def huge(text): return text.replace('"units": 2', '"units": 2000000000')


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_configuration_asks_for_no_more_than_the_file_holds(suffix, tmp_path):
    """A layer of 24 GB in a file of some KB, opened by `revive` and by the command line."""
    from typer.testing import CliRunner

    from transferlit.cli import app

    path, good = tmp_path/f"bad{suffix}", tmp_path/f"good{suffix}"
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    model.save(good)
    tl.save(model, tmp_path/"w.safetensors")
    if suffix == ".keras":
        with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist(): new.writestr(name, huge(old.read(name).decode()) if name == "config.json" else old.read(name))
    else:
        path.write_bytes(good.read_bytes())
        with h5py.File(path, "r+") as file: file.attrs["model_config"] = huge(file.attrs["model_config"])
    np.testing.assert_allclose(tl.revive(good).to_keras()(X), model(X), rtol=1e-5)
    with pytest.raises(UnsafeFile, match="more values than the file"): tl.revive(path)
    for file, code in ((good, 0), (path, 1)):
        assert CliRunner().invoke(app, ["plan", str(file), str(tmp_path/"w.safetensors")]).exit_code == code


def changed_keras(path, change):
    """A `.keras` file of one layer whose layers are what `change` makes of them."""
    keras.Sequential([keras.Input((3,)), keras.layers.Activation("relu", name="d")]).save(path.with_name("good.keras"))
    with zipfile.ZipFile(path.with_name("good.keras")) as old, zipfile.ZipFile(path, "w") as new:
        config = json.loads(old.read("config.json"))
        config["config"]["layers"] = change(*config["config"]["layers"])
        for name in old.namelist(): new.writestr(name, json.dumps(config) if name == "config.json" else old.read(name))
    return config


def numbered(layer, count): return [layer | {"config": layer["config"] | {"name": f"{layer['config']['name']}{i}"}} for i in range(count)]


def test_many_layers_are_refused_before_they_are_made(tmp_path):
    """Keras takes minutes for a `Sequential` of 2,000 layers, which pack into some KB."""
    def many(start, layer): return [start, *numbered(layer, 2000)]
    config = changed_keras(tmp_path/"m.keras", many)
    with pytest.raises(UnsafeFile, match="15,000 calls of layers"): tl.revive(tmp_path/"m.keras")
    folder = tl.share(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")]), tmp_path/"shared")
    told = json.loads((folder/"config.json").read_text("utf-8"))
    (folder/"config.json").write_text(json.dumps(told | {"architecture": config}))
    with pytest.raises(UnsafeFile, match="15,000 calls of layers"): tl.shared(folder)


@pytest.mark.parametrize("module, name", [("keras.config", "set_max_epochs"), ("keras", "datasets.mnist.load_data"), ("keras.applications", "MobileNet")])
def test_a_configuration_names_only_functions_that_compute(module, name, tmp_path):
    """In the place of an activation, one would change this process, fetch data or weights when the model is called."""
    def put(function):
        return lambda start, layer: [start, layer | {"config": layer["config"] | {"activation": function}}]
    function = {"module": module, "class_name": "function", "config": name, "registered_name": name}
    config = changed_keras(tmp_path/"m.keras", put(function))
    with pytest.raises(UnsafeFile, match=f"names '{module}.{name}'"): tl.revive(tmp_path/"m.keras")
    folder = tl.share(keras.Sequential([keras.Input((3,)), keras.layers.Activation("relu", name="d")]), tmp_path/"shared")
    told = json.loads((folder/"config.json").read_text("utf-8"))
    (folder/"config.json").write_text(json.dumps(told | {"architecture": config}))
    with pytest.raises(UnsafeFile, match=f"names '{module}.{name}'"): tl.shared(folder)
    changed_keras(tmp_path/"sin.keras", put(function | {"module": "keras.ops", "config": "sin", "registered_name": None}))
    np.testing.assert_allclose(tl.revive(tmp_path/"sin.keras").to_keras()(X), np.sin(X), rtol=1e-5)


def test_a_configuration_without_what_a_layer_needs_is_refused_in_words(tmp_path):
    folder = tl.share(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")]), tmp_path/"shared")
    told = (folder/"config.json").read_text("utf-8")
    (folder/"config.json").write_text(told.replace('"Dense"', '"TextVectorization"').replace('"units"', '"vocabulary"'))
    with pytest.raises(ValueError, match="known here and run no code"): tl.shared(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_full_temporary_folder_is_not_a_damaged_file(tmp_path):
    import resource

    path, limits = tmp_path/"m.keras", resource.getrlimit(resource.RLIMIT_FSIZE)
    keras.Sequential([keras.Input((100,)), keras.layers.Dense(100, name="d")]).save(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="must fit on its disk"): tl.revive(path)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)


PIPELINE = {"module": "keras.layers", "class_name": "Pipeline", "config": {"name": "p", "layers": []}, "registered_name": None}


def test_what_layers_raise_comes_in_words(tmp_path):
    """An empty pipeline names a variable that it has not; a model that says it is built needs layers."""
    changed_keras(tmp_path/"m.keras", lambda start, layer: [start, PIPELINE])
    with pytest.raises(ValueError, match="must be understood by Keras"): tl.revive(tmp_path/"m.keras")
    changed_keras(tmp_path/"none.keras", lambda start, layer: [])
    with pytest.raises(ValueError, match="has no layers"): tl.revive(tmp_path/"none.keras")


@pytest.mark.parametrize("text, said", [('node { name: "x" op: "Placeholder" } node { name: "y" op: "Identity" input: "x" }', "must say its types.*'x'"),
                                        ('node { name: "x\\033[2J" op: "Placeholder" attr { key: "dtype" value { type: DT_FLOAT } } }', r"can be shown.*x\\\\x1b\[2J"),
                                        ("node {" * 100_000, "must hold a MetaGraphDef")], ids=["types", "codes", "depth"])
def test_a_graph_that_cannot_be_one_is_refused_in_words(text, said, tmp_path):
    (tmp_path/"m.pbtxt").write_text(text)
    with pytest.raises(ValueError, match=said): tl.revive(tmp_path/"m.pbtxt")


def of(graph, op): return next(n for n in [*graph.node, *(n for f in graph.library.function for n in f.node_def)] if n.op == op)


def no_kernel(x): return raw.SegmentMaxV2(data=x, segment_ids=[0, 0], num_segments=2)  # of numbers of this type


def test_an_operation_that_is_not_on_this_machine_is_told_in_words(tmp_path):
    """As those that an accelerator alone has."""
    old = tl.revive(write(tmp_path, lambda x: x + tf.reduce_sum(no_kernel(x))))
    for make in (old.to_keras, old.as_layer):
        with pytest.raises(ValueError, match="runs on this machine.*No OpKernel.*SegmentMaxV2"): make(outputs="out")


def test_what_is_wrong_with_a_graph_is_not_looked_up_at_any_cost(tmp_path, monkeypatch):
    """TensorFlow computes constants of all that it loads: here one beside the way, which takes 32 GB."""
    def build(x):
        tf.identity(COSTS["listed"]())
        return x + tf.reduce_sum(no_kernel(x))
    path = write(tmp_path, build)
    monkeypatch.setattr(revived, "loading_error", lambda _: pytest.fail("was loaded as a whole"))
    with pytest.raises(ValueError, match="runs on this machine.*SegmentMaxV2"): tl.revive(path).to_keras(outputs="out")


FAULTS = {  # what is done to a graph, and what is said of it
    "an input that is not there": (lambda g: of(g, "MatMul").input.__setitem__(1, "gone"), "gone"),
    "an output that a node has not": (lambda g: of(g, "Relu").input.__setitem__(0, "Tanh:7"), "Relu"),
    "an input too few": (lambda g: of(g, "MatMul").input.pop(), "MatMul"),
    "a type that there is not": (lambda g: setattr(of(g, "Relu").attr["T"], "type", 97), "97"),
    "a type in a number's place": (lambda g: of(g, "MatMul").attr["transpose_a"].CopyFrom(of(g, "Relu").attr["T"]), "transpose_a"),
    "another type": (lambda g: setattr(of(g, "Relu").attr["T"], "type", 3), "int32"),
    "a circle": (lambda g: of(g, "MatMul").input.__setitem__(1, "out"), "cycle"),
    "a constant of another size": (lambda g: of(g, "Const").attr["value"].tensor.tensor_shape.dim.add(size=5), "rank 3"),
    "a constant that is cut short": (lambda g: setattr(of(g, "Const").attr["value"].tensor, "tensor_content", bytes(8)), "reshape|size|elements"),
    "a function that gives nothing": (lambda g: g.library.function[0].ret.clear(), "Error"),
    "a function without a node": (lambda g: g.library.function[0].node_def.pop(0), "Error"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_graph_that_is_not_whole_says_what_is_wrong(fault, tmp_path):
    """What was damaged, or put together by hand, fails somewhere deep inside of what reads it."""
    def build(x): return tf.function(lambda t: tf.math.softplus(t)*2.)(tf.nn.relu(tf.tanh(x)))
    path, (change, said) = write(tmp_path, build), FAULTS[fault]
    np.testing.assert_allclose(tl.revive(path).to_keras(outputs="out")(X).shape, (2, 2))
    graph = read_graph(path).graph_def
    change(graph)
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(ValueError, match=f"must be one that TensorFlow loads.*'graph.pb'.*{said}"): tl.revive(path).to_keras(outputs="out")


def test_an_output_that_a_node_has_not_is_refused_in_words(tmp_path):
    """Named by whoever calls, and by the signature of a SavedModel."""
    old = tl.revive(write(tmp_path, lambda x: x))
    for asked in (dict(outputs="out:9"), dict(outputs="out", inputs="x:9")):
        with pytest.raises(ValueError, match="that its node gives.*:9"): old.to_keras(**asked)
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 3], "x")
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": tf.matmul(x, tf.constant(KERNEL))})
        signature.outputs["y"].name = "MatMul:9"
        builder = v1.saved_model.builder.SavedModelBuilder(str(tmp_path/"export"))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    assert repr(tl.revive(tmp_path/"export"))
    with pytest.raises(ValueError, match="that its node gives.*MatMul:9"): tl.revive(tmp_path/"export").to_keras()


def test_a_collection_of_numbers_in_place_of_variables_is_no_fault(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 3], "x")
        tf.matmul(x, v1.get_variable("kernel", initializer=KERNEL), name="out")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path/"m.ckpt"))
    meta = read_graph(tmp_path/"m.ckpt.meta")
    meta.collection_def["trainable_variables"].int64_list.value.append(-1)
    (tmp_path/"m.ckpt.meta").write_bytes(meta.SerializeToString())
    old = tl.revive(tmp_path/"m.ckpt.meta")
    assert "kernel" in repr(old)
    np.testing.assert_allclose(old.to_keras(outputs="out")(X), X @ KERNEL, rtol=1e-5)


def test_a_graph_writes_nothing_to_the_terminal(tmp_path, capfd):
    """`Print` in the graph and in a function: codes in its text would be obeyed."""
    @tf.function
    def inner(x):
        return v1.Print(x, [x], message="said\x1b[31m")

    old = tl.revive(write(tmp_path, lambda x: inner(v1.Print(x, [x], message="said\x1b[31m"))))
    for make in old.to_keras, old.as_layer:
        make()(X)
    assert "said" not in "".join(capfd.readouterr())
