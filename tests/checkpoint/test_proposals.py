"""What a plan proposes is right, or the proposal says what it is not sure of: layers of equal shapes
that are renamed, renumbered, turned round, inserted, dropped, or of another kind.
"""
import os
import re
from itertools import product

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import h5py
import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import transferlit as tl

L = keras.layers
KINDS = ("safetensors", "weights.h5", "h5", "keras", "ckpt", "npz", "sorted", "flax", "slim")


def line(*names):
    """Dense layers of equal shapes; `n:` is a normalization, `b:` one of batches."""
    kinds = {"n": L.LayerNormalization, "b": L.BatchNormalization, "d": L.Dense}
    made = [kinds[n[0]](name=n[2:]) if n[1:2] == ":" and n[0] in "nb" else L.Dense(4, name=n) for n in names]
    return keras.Sequential([keras.Input((4,)), *made])


def branches(one, two, first=0):
    x, made = keras.Input((4,)), [None, None]
    for k in (first, 1 - first):
        made[k] = L.Dense(4, name=(one, two)[k])(x)
    return keras.Model(x, L.Subtract(name="s")(made))


def towers(one, two, inner="ac", other=None):
    x = keras.Input((4,))
    made = [keras.Sequential([keras.Input((4,)), *(L.Dense(4, name=n) for n in names)], name=name) for name, names in ((one, inner), (two, other or inner))]
    return keras.Model(x, made[1](made[0](x)))


def same(*pairs):  # `a>x`: what was `a` is now `x`
    return dict(reversed(p.split(">")) for p in pairs)


PAIRS = {  # the model that was saved, the one to restore, and what of the second was what of the first
    "renamed": (lambda: line("a", "b"), lambda: line("x", "y"), same("a>x", "b>y")),
    "one renamed": (lambda: line("a", "b"), lambda: line("a", "y"), same("a>a", "b>y")),
    "shifted": (lambda: line("dense_1", "dense_2", "dense_3"), lambda: line("dense", "dense_1", "dense_2"), same("dense_1>dense", "dense_2>dense_1", "dense_3>dense_2")),
    "shifted up": (lambda: line("dense", "dense_1", "dense_2"), lambda: line("dense_1", "dense_2", "dense_3"), same("dense>dense_1", "dense_1>dense_2", "dense_2>dense_3")),
    "own numbers": (lambda: line("fc1", "fc2", "fc3"), lambda: line("fc0", "fc1", "fc2"), same("fc1>fc0", "fc2>fc1", "fc3>fc2")),
    "from zero": (lambda: line("block0", "block1"), lambda: line("block1", "block2"), same("block0>block1", "block1>block2")),
    "head to the front": (lambda: line("a", "b", "old"), lambda: line("new", "a", "b"), same("a>a", "b>b")),
    "another head": (lambda: line("a", "old"), lambda: line("a", "new"), same("a>a")),
    "inserted": (lambda: line("a", "b"), lambda: line("a", "new", "b"), same("a>a", "b>b")),
    "another kind": (lambda: line("a", "b:one"), lambda: line("a", "n:two"), same("a>a")),
    "kinds": (lambda: line("b:one", "n:two"), lambda: line("b:x", "n:y"), same("one>x", "two>y")),
    "crossed numbers": (lambda: branches("dense", "dense_1"), lambda: branches("dense_3", "dense_2", 1), same("dense>dense_3", "dense_1>dense_2")),
    "branches": (lambda: branches("a", "b"), lambda: branches("x", "y", 1), same("a>x", "b>y")),
    "towers": (lambda: towers("enc", "dec"), lambda: towers("one", "two"), same("enc/a>one/a", "enc/c>one/c", "dec/a>two/a", "dec/c>two/c")),
    "one tower": (lambda: towers("enc", "dec"), lambda: towers("enc", "two"), same("enc/a>enc/a", "enc/c>enc/c", "dec/a>two/a", "dec/c>two/c")),
    "inner names turned": (lambda: towers("enc", "dec", "ac", "xy"), lambda: towers("one", "two", "xy", "ac"), same("enc/a>one/x", "enc/c>one/y", "dec/x>two/a", "dec/y>two/c")),
}
UNSURE = ("by shapes alone", "read with care", "is read as", "from elsewhere")


def other_name(path, kind):
    if kind == "slim":
        return "net/" + re.sub("kernel$", "weights", re.sub("bias$", "biases", path))
    return ("batch_stats/" if "moving" in path else "params/") + path if kind == "flax" else path


def write(model, kind, folder):
    path = folder / f"m.{kind}"
    if kind in ("safetensors", "weights.h5", "keras", "ckpt"):
        return tl.save(model, path)
    if kind == "h5":
        model.save(path)
        return path
    arrays = {other_name(p, kind): v.numpy() for p, v in tl.by_path(model).items()}
    np.savez(folder / f"{kind}.npz", **(dict(sorted(arrays.items())) if kind == "sorted" else arrays))
    return folder / f"{kind}.npz"


def proposal(found):  # the arguments, and how they are put
    for problem in found.problems:
        if m := re.match(r"(\w+=.+?),?(?: read with care,)? would find ", problem):
            return eval(f"dict({m[1]})"), problem
    return {}, ""


@pytest.mark.parametrize("pair", PAIRS)
def test_a_proposal_is_right_or_says_what_it_is_not_sure_of(tmp_path, pair):
    """Whatever it proposes is followed, twice; `renumber` is right without having been proposed."""
    first, second, truth = PAIRS[pair]
    saved, model = first(), second()
    for i, v in enumerate(saved.weights):
        v.assign(np.random.default_rng(i).normal(size=v.shape))
    want = {p: v.numpy() for p, v in tl.by_path(saved).items()}
    for kind, asked in product(KINDS, [{}, {"rename": "renumber"}]):
        path, arguments, words = write(saved, kind, tmp_path), asked, ""
        for _ in range(0 if asked else 2):
            more, how = proposal(tl.plan(model, path, **arguments))
            arguments, words = arguments | more, words + how
        if not tl.plan(model, path, **arguments).ok:
            continue
        tl.restore(model, path, **arguments)
        for p, v in tl.by_path(model).items():
            layer, _, leaf = p.rpartition("/")
            right = want.get(f"{truth.get(layer)}/{leaf}")
            assert any(w in words for w in UNSURE) or np.array_equal(v, right), f"{kind} {arguments} {p}: {words}"


def test_numbers_are_aligned_where_that_changes_what_names_give(tmp_path):
    """Two of three names are there by chance; the numbers show what is meant."""
    first, second, _ = PAIRS["shifted"]
    path, model = tl.save(first(), tmp_path / "m.safetensors"), second()
    assert "rename='renumber' would find everything that is missing, and read 4 others from elsewhere." in tl.plan(model, path).problems
    assert [row["file"] for row in tl.restore(model, path, rename="renumber").of("restored")] == [f"dense_{i}/{leaf}" for i in (1, 2, 3) for leaf in ("kernel", "bias")]


@pytest.mark.parametrize("kind,why", [("safetensors", "in another order than in the file"), ("ckpt", "no order to tell equal shapes by")])
def test_numbers_against_the_order_of_layers_are_refused(tmp_path, kind, why):
    """The mapping that the refusal spells out is taken, where it is what is meant."""
    first, second, _ = PAIRS["crossed numbers"]
    saved, model = first(), second()
    path = tl.save(saved, tmp_path / f"m.{kind}")
    with pytest.raises(ValueError, match=why) as refused:
        tl.restore(model, path, rename="renumber")
    tl.restore(model, path, rename=eval(re.search(r"rename=({.+?})", str(refused.value))[1]))
    np.testing.assert_array_equal(model.get_layer("dense_2").kernel, saved.get_layer("dense").kernel)


@pytest.mark.parametrize("mapping", [{"a": "b", "b": "a"}, {"a/kernel": "b/kernel", "a/bias": "b/bias", "b/kernel": "a/kernel", "b/bias": "a/bias"}])
def test_a_mapping_acts_at_once(tmp_path, mapping):
    """Names that change places, as scopes or one by one."""
    saved, model = line("a", "b"), line("b", "a")
    path = tl.save(saved, tmp_path / "m.safetensors")
    tl.restore(model, path, rename=mapping)
    for mine, theirs in zip(model.weights, saved.weights):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("wrong", [{re.compile("a"): "x"}, [re.compile("a"), 3], [("a", "x"), 3], {"a": 3}])
def test_what_is_no_rename_is_refused_in_words(tmp_path, wrong):
    path = tl.save(line("a"), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="(?s)Received"):
        tl.plan(line("x"), path, rename=wrong)


def test_a_compiled_pattern_renames(tmp_path):
    path = tl.save(line("a"), tmp_path / "m.safetensors")
    assert tl.plan(line("x"), path, rename=(re.compile("^a/"), "x/")).ok


def test_a_long_file_is_shown_layer_by_layer(tmp_path):
    """Every row is there for a program, and for who asks."""
    from typer.testing import CliRunner

    from transferlit.cli import app

    np.savez(tmp_path / "m.npz", **{f"d{i}/{leaf}": np.zeros(3, "float32") for i in range(60) for leaf in ("kernel", "bias")})
    shown = tl.peek(tmp_path / "m.npz")
    lines = str(shown).splitlines()
    assert len(shown) == len(shown.to_dict()) == 120 and len(lines) < 40
    assert any("d0" in line and " 2 " in line and " 24 " in line for line in lines) and "more layers" in str(shown)
    assert "d30/kernel" not in shown._repr_html_() and "d30/kernel" in tl.peek(tmp_path / "m.npz", all=True)._repr_html_()
    short, every = (CliRunner().invoke(app, ["peek", *more, str(tmp_path / "m.npz")]).output for more in ([], ["--all"]))
    assert len(short.splitlines()) < 40 and "d30/kernel" in every


def test_numbers_are_aligned_beside_a_head_of_another_size(tmp_path):
    """Where the user lets it keep its values, the layers below are found; not otherwise."""
    one, two = (keras.Sequential([keras.Input((3,)), L.Dense(4), L.Dense(n)]) for n in (5, 6))
    path = tl.save(one, tmp_path / "m.ckpt")
    assert not tl.plan(two, path, rename="renumber").ok
    plan = tl.restore(two, path, rename="renumber", mismatched="fresh")
    assert len(plan.of("fresh")) == len(plan.of("restored")) == 2
    np.testing.assert_array_equal(two.weights[0], one.weights[0])


@pytest.mark.parametrize("use, words", [(tl.save, "saving a model"), (tl.plan, "loading weights into a model"), (tl.restore, "loading weights into a model")])
def test_a_model_without_variables_is_said_to_be_not_built(tmp_path, use, words):
    with pytest.raises(ValueError, match=f"You are {words} that has not yet been built"):
        use(keras.Sequential([L.Dense(2)]), tmp_path / "m.ckpt")


def test_layers_that_keras_1_numbered_are_aligned(tmp_path):
    """`convolution2d_1` is a Conv2D, and the numbers begin at one."""
    make = lambda: keras.Sequential([keras.Input((4, 4, 2)), L.Conv2D(3, 3), L.BatchNormalization(), L.Flatten(), L.Dense(12), L.Dense(12)])
    saved, model = make(), make()
    old = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
    names = {"Conv2D": "convolution2d_1", "BatchNormalization": "batchnormalization_1"} | {"Dense": "dense_1"}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["layer_names"] = layers = [names[type(layer).__name__] if i < 4 else "dense_2" for i, layer in enumerate(saved.layers) if layer.weights]
        for layer, name in zip([layer for layer in saved.layers if layer.weights], layers):
            group, inside = file.create_group(name), {f"{name}_{old.get(v.name, v.name)}": v.numpy() for v in layer.weights}
            group.attrs["weight_names"] = [*inside]
            for leaf, array in inside.items():
                group[leaf] = array
    assert "rename='renumber' would find everything that is missing" in tl.plan(model, tmp_path / "m.h5").problems[-1]
    tl.restore(model, tmp_path / "m.h5", rename="renumber")
    for mine, theirs in zip(model.get_weights(), saved.get_weights()):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("names", [("W{0}", "b{0}"), ("layer{0}/w", "layer{0}/b"), ("net/fc_{0}/weights", "net/fc_{0}/biases")])
@pytest.mark.parametrize("first", [0, 9])
def test_layers_of_equal_shapes_are_paired_by_their_numbers(tmp_path, names, first):
    saved, model, arrays = line("a", "b", "c"), line("d1", "d2", "d3"), {}
    for i, layer in enumerate(saved.layers):
        for name, v in zip(names, layer.weights):
            v.assign(np.random.default_rng(i).normal(size=v.shape))
            arrays[name.format(first + i)] = v.numpy()
    np.savez(tmp_path / "m.npz", **dict(sorted(arrays.items())))  # an order of names, not of layers
    more, words = proposal(tl.plan(model, tmp_path / "m.npz"))
    assert "told by shapes alone" in words
    tl.restore(model, tmp_path / "m.npz", **more)
    for mine, theirs in zip(model.weights, saved.weights):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("names", [("w_a", "b_a"), ("arr_0", "arr_1")])
def test_names_without_steps_have_a_plan(tmp_path, names):
    np.savez(tmp_path / "m.npz", **dict(zip(names, (np.ones((4, 4)), np.ones(4)))))
    assert not tl.plan(line("d"), tmp_path / "m.npz").ok


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_what_is_quantized_on_one_side_is_said(tmp_path, mode):
    plain, rounded = line("d"), line("d")
    rounded.layers[0].quantize(mode)
    for saved, model, words in [(rounded, plain, "call `layer.quantize(mode)` before"), (plain, rounded, "restore before `quantize`")]:
        assert words in tl.plan(model, tl.save(saved, tmp_path / "m.keras")).problems[0]


def test_a_plan_asks_its_model_once(tmp_path, monkeypatch):
    """However many proposals are tried; the next plan sees what has changed since."""
    from transferlit.weights import matching

    asked, original = [], matching.own_variables
    monkeypatch.setattr(matching, "own_variables", lambda layer: asked.append(layer) or original(layer))
    model, path = line("a", "b"), tl.save(line("x", "y"), tmp_path / "m.safetensors")
    assert not tl.plan(model, path).ok
    assert len(asked) <= 4 * 3  # of four questions, for the model and its two layers
    model.layers[0].enable_lora(2)
    assert len(tl.plan(model, path).of("missing")) == 6


BLOCKS = {  # how a library calls what is in a block, and the normalization before or after all blocks
    "bert": ("encoder.layer.{}.attention.output.LayerNorm", "encoder.layer.{}.output.LayerNorm", "encoder.layer.{}.intermediate.dense", "encoder.layer.{}.output.dense", "embeddings.LayerNorm"),
    "vit": ("blocks.{}.norm1", "blocks.{}.norm2", "blocks.{}.mlp.fc1", "blocks.{}.mlp.fc2", "norm"),
    "llama": ("layers.{}.input_layernorm", "layers.{}.post_attention_layernorm", "layers.{}.mlp.up", "layers.{}.mlp.down", "norm"),
    "unknown": ("layers.{}.a", "layers.{}.b", "layers.{}.up", "layers.{}.down", "norm"),
}


def blocks(names, outer_first):
    """Two normalizations in each block; `names` of both, or None for those that Keras gives."""
    one, two = names or (None, None)
    norm = lambda name, i, x: L.LayerNormalization(name=name and name.format(i))(x)
    x = start = keras.Input((5, 4))
    x = norm("first", 0, x) if outer_first else x
    for i in range(2):
        h = norm(one, i, x)
        x = norm(two, i, L.Add()([x, L.MultiHeadAttention(2, 2, name=f"m{i}")(h, h)]))
        x = L.Add()([x, L.Dense(4, name=f"down{i}")(L.Dense(6, name=f"up{i}")(x))])
    return keras.Model(start, x if outer_first else norm("last", 0, x))


def of_blocks(model, kind):
    one, two, up, down, outer = BLOCKS[kind]
    norms = [layer for layer in model.layers if isinstance(layer, L.LayerNormalization)]
    inner = [name.format(i) for i in range(2) for name in (one, two)]
    arrays = {}
    for name, layer in zip([outer, *inner] if kind == "bert" else [*inner, outer], norms):
        arrays |= {f"{name}.weight": layer.gamma.numpy(), f"{name}.bias": layer.beta.numpy()}
    for i in range(2):
        for name, layer in ((up, f"up{i}"), (down, f"down{i}")):
            kernel, bias = (v.numpy() for v in model.get_layer(layer).weights)
            arrays |= {f"{name.format(i)}.weight": np.ascontiguousarray(kernel.T), f"{name.format(i)}.bias": bias}
        at = "encoder.layer.{}.attention.self.{}" if kind == "bert" else one.rpartition(".")[0] + ".attn.{}"
        out = "encoder.layer.{}.attention.output.dense" if kind == "bert" else at.format("{}", "out_proj")
        for v in model.get_layer(f"m{i}").weights:
            part, leaf = v.path.split("/")[-2:]
            name = out.format(i) if part == "attention_output" else at.format(i, part)
            flat = v.numpy().reshape((4, 4) if leaf == "kernel" else (4,))
            arrays[f"{name}.{leaf.replace('kernel', 'weight')}"] = np.ascontiguousarray(flat.T)
    return arrays


@pytest.mark.parametrize("kind", BLOCKS)
def test_two_normalizations_of_a_block_are_told_apart_by_their_order(tmp_path, kind):
    """By numbers or words of the file and the graph of the model; where either does not tell, or numbers run against it, nothing is proposed."""
    for names in (("n{}_1", "n{}_2"), ("before{}", "between{}"), None, ("n{}_2", "n{}_1")):
        saved, model = blocks(names, kind == "bert"), blocks(names, kind == "bert")
        for i, v in enumerate(saved.weights):
            v.assign(np.random.default_rng(i).normal(size=v.shape))
        np.savez(tmp_path / "m.npz", **of_blocks(saved, kind))
        arguments = proposal(tl.plan(model, tmp_path / "m.npz"))[0]
        plan = tl.plan(model, tmp_path / "m.npz", **arguments)
        assert plan.ok == (kind != "unknown" and names != ("n{}_2", "n{}_1"))
        if plan.ok:
            tl.restore(model, tmp_path / "m.npz", **arguments)
            for mine, theirs in zip(model.weights, saved.weights):
                np.testing.assert_array_equal(mine, theirs)


def test_a_layer_beside_an_attention_is_not_taken_for_its_output(tmp_path):
    """`dense` is a name of an attention's output as well; what lies nearest is meant."""
    x = keras.Input((3, 4))
    model = keras.Model(x, L.Dense(4, name="dense")(L.MultiHeadAttention(2, 2, name="m")(x, x)))
    np.savez(tmp_path / "m.npz", **{f"m.{n}_lin.{e}": np.full((4,) * (2 - (e == "bias")), i, "float32") for i, n in enumerate(("q", "k", "v", "out")) for e in ("weight", "bias")}, **{"dense.weight": np.eye(4, dtype="float32"), "dense.bias": np.ones(4, "float32")})
    tl.restore(model, tmp_path / "m.npz", transform="torch")
    np.testing.assert_array_equal(np.reshape(model.get_layer("m").output_dense.kernel, (4, 4)), np.full((4, 4), 3))


def test_the_last_normalization_of_a_file_is_none_before_the_blocks(tmp_path):
    """As many of equal shapes on both sides, but the model's outer one comes first: order alone would shift them all."""
    for i, v in enumerate((saved := blocks(("x{}a", "y{}b"), False)).weights):
        v.assign(np.random.default_rng(i).normal(size=v.shape))
    np.savez(tmp_path / "m.npz", **of_blocks(saved, "vit"))
    model = blocks(("x{}a", "y{}b"), True)
    arguments = proposal(tl.plan(model, tmp_path / "m.npz"))[0]
    missing = {row["path"] for row in tl.plan(model, tmp_path / "m.npz", **arguments).of("missing")}
    assert missing == {p for p in tl.by_path(model) if p.endswith(("gamma", "beta"))}


@pytest.mark.parametrize("theirs,mine", [(("gate", "up"), ("gate_", "up_")), (("k", "q"), ("key", "query")), (("k", "q"), ("wk_", "wq_"))])
def test_a_word_that_both_names_have_tells_layers_of_one_block_apart(tmp_path, theirs, mine):
    x = h = keras.Input((4,))
    for i in range(2):
        h = L.Multiply()([L.Dense(4, use_bias=False, name=f"{part}{i}")(h) for part in mine[::-1]])
    model = keras.Model(x, h)
    np.savez(tmp_path / "m.npz", **{f"layers.{i}.mlp.{part}_proj.weight": np.full((4, 4), 2 * i + k, "float32") for i in range(2) for k, part in enumerate(theirs)})
    tl.restore(model, tmp_path / "m.npz", **proposal(tl.plan(model, tmp_path / "m.npz"))[0])
    assert [float(model.get_layer(f"{part}{i}").kernel[0, 0]) for i in range(2) for part in mine] == [0, 1, 2, 3]


@pytest.mark.parametrize("before,behind", [("ln_pre", "ln_post"), ("model.pre_layrnorm", "model.post_layernorm"), ("embed_norm", "attn_pool.norm")])
def test_what_stands_behind_all_blocks_is_none_before_them(tmp_path, before, behind):
    """As CLIP has it: normalizations of one shape before, within and behind the blocks."""
    inside = [f"{before.rpartition('.')[0]}.blocks.{i}.norm{k}".strip(".") for i in range(2) for k in (1, 2)]
    start = x = keras.Input((4,))
    for name in "abcdef":
        x = L.LayerNormalization(name=name)(x)
    model = keras.Model(start, x)
    arrays = {f"{name}.{end}": np.full(4, i, "float32") for i, name in enumerate([before, *inside, behind]) for end in ("weight", "bias")}
    np.savez(tmp_path / "m.npz", **dict(sorted(arrays.items())))
    tl.restore(model, tmp_path / "m.npz", **proposal(tl.plan(model, tmp_path / "m.npz"))[0])
    assert [float(layer.gamma[0]) for layer in model.layers[1:]] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name,leaf", [("layers/{}/{}/value", "kernel"), ("linear{}.{}.value", "kernel"), ("linear{}.{}", "kernel"), (".layers[{}].{}", "weight")])
def test_trees_of_nnx_and_equinox_are_read_by_their_names(tmp_path, name, leaf):
    saved, model = line("fc1", "fc2", "fc3"), line("fc1", "fc2", "fc3")
    for i, v in enumerate(saved.weights):
        v.assign(np.random.default_rng(i).normal(size=v.shape))
    kernels = [(i, layer.kernel.numpy(), layer.bias.numpy()) for i, layer in enumerate(saved.layers)]
    turned = [(i, kernel.T if leaf == "weight" else kernel, bias) for i, kernel, bias in kernels]
    save_file({name.format(i, end): np.ascontiguousarray(a) for i, *parts in turned for end, a in zip((leaf, "bias"), parts)}, tmp_path / "m.safetensors")
    tl.restore(model, tmp_path / "m.safetensors", **proposal(tl.plan(model, tmp_path / "m.safetensors"))[0])
    for mine, theirs in zip(model.weights, saved.weights):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("length,direction", [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")])
def test_a_file_of_normed_weights_alone_is_known_for_one_of_torch(tmp_path, length, direction):
    rng = np.random.default_rng(0)
    arrays = {f"{i}.{end}": rng.normal(size=shape).astype("float32") for i, (units, size) in ((0, (5, 4)), (2, (3, 5))) for end, shape in (("bias", units), (length, (units, 1)), (direction, (units, size)))}
    save_file(arrays, tmp_path / "m.safetensors")
    model = keras.Sequential([keras.Input((4,)), L.Dense(5), L.Dense(3)])
    tl.restore(model, tmp_path / "m.safetensors", **proposal(tl.plan(model, tmp_path / "m.safetensors"))[0])
    for i, layer in zip((0, 2), model.layers):
        lengths, directions = arrays[f"{i}.{length}"], arrays[f"{i}.{direction}"]
        expected = lengths * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        np.testing.assert_allclose(layer.kernel, expected.T, rtol=1e-5)
