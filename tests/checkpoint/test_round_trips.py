"""What goes in comes out, or is refused: models, kinds of file, libraries that saved them, and renames are drawn.

TRANSFERLIT_DRAWS sets how many are drawn (12).
"""
import os
import re
import shutil
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, HealthCheck, given, settings, strategies as st
from safetensors.numpy import save_file

import transferlit as tl

L = keras.layers
DRAWS = int(os.environ.get("TRANSFERLIT_DRAWS", 12))
SAVERS = ("tl.keras", "tl.weights.h5", "tl.safetensors", "tl.ckpt", "keras.keras", "keras.weights.h5", "keras.h5", "npz", "safetensors", "objects", "slim")


def dense(name):
    return L.Dense(4, activation="tanh", name=name)


BLOCKS = {
    "dense": lambda n: [dense(n)],
    "norm": lambda n: [L.LayerNormalization(name=n)],
    "batch": lambda n: [L.BatchNormalization(name=n)],
    "twins": lambda n: [dense(n and f"{n}_a"), dense(n and f"{n}_b")],
    "nested": lambda n: [keras.Sequential([keras.Input((4,)), dense(n and f"{n}_in"), L.BatchNormalization(name=n and f"{n}_bn")], name=n)],
    "both": lambda n: [L.Reshape((2, 2)), L.Bidirectional(L.GRU(2), name=n)],
    "heads": lambda n: [L.Reshape((2, 2)), L.TimeDistributed(L.Dense(2), name=n), L.Flatten()],
    "drop": lambda n: [L.Dropout(0.1)],
}


def build(kinds, names):
    """A model of blocks; a name of None is left to Keras."""
    x = h = keras.Input((4,))
    for kind, name in zip(kinds, names):
        for layer in BLOCKS[kind](name):
            h = layer(h)
    return keras.Model(x, L.Dense(3, name=names[-1])(h))


def fill(model, seed):
    rng = np.random.default_rng(seed)
    for v in model.weights:
        v.assign(rng.uniform(0.1, 1, v.shape))
    return model


def write(model, saver, folder):
    arrays = {p: v.numpy() for p, v in tl.by_path(model).items()}
    path = folder / f"m.{saver.partition('.')[2] or saver}"
    if saver.startswith("tl."):
        return tl.save(model, path)
    if saver == "keras.weights.h5":
        model.save_weights(path)
    elif saver.startswith("keras."):
        model.save(path)
    elif saver == "npz":
        np.savez(path, **arrays)
    elif saver == "safetensors":
        save_file(arrays, path)
    elif saver == "slim":
        np.savez(folder / "m.npz", **{"net/" + re.sub("kernel$", "weights", re.sub("bias$", "biases", p)): a for p, a in arrays.items()})
        return folder / "m.npz"
    else:
        tf.train.Checkpoint(model=model).write(str(path))
    return path


def outputs(model):
    return np.asarray(model(np.linspace(-1, 1, 20).reshape(5, 4)))


def proposals(plan):
    """The arguments that the problems propose, as a reader would type them."""
    found = []
    for problem in plan.problems:
        if m := re.match(r"(\w+=.+?),?(?: read with care,)? would find ", problem):
            found.append(eval(f"dict({m[1]})"))
        elif 'say by="position"' in problem:
            found.append({"by": "position"})
    return found


@settings(max_examples=DRAWS, deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.data())
def test_same_outputs_or_a_refusal(tmp_path_factory, data):
    """Never ok with another output: as it is, with what the plan proposes, by position, and renumbered."""
    warnings.simplefilter("ignore")
    keras.utils.clear_session()
    kinds = data.draw(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=4))
    named = data.draw(st.booleans())
    names = [f"l{i}" if named else None for i in range(len(kinds) + 1)]
    change = data.draw(st.sampled_from(["none", "prefix", "other"]))
    others = {"none": names, "prefix": [n and f"x_{n}" for n in names], "other": [n and f"w{7 * i % 5}{i}" for i, n in enumerate(names)]}[change]
    saver = data.draw(st.sampled_from(SAVERS))
    for _ in range(data.draw(st.integers(0, 2))):
        build(["dense", "nested", "both"], [None] * 4)  # Keras counts on
    saved = fill(build(kinds, names), 0)
    folder = tmp_path_factory.mktemp("m")
    path, want = write(saved, saver, folder), outputs(saved)
    note = f"{saver} {kinds} {names} {others}"
    for arguments in [{}, {"rename": "renumber"}, {"by": "position"}]:
        model = fill(build(kinds, others), 1)
        try:
            found = tl.plan(model, path, **arguments)
        except ValueError:
            assert arguments, note
            continue
        for more in [{}, *proposals(found)]:
            try:
                done = tl.restore(model, path, **{**arguments, **more})
            except ValueError:
                assert not found.ok or more, note
                continue
            assert done.ok
            np.testing.assert_allclose(outputs(model), want, atol=1e-5, err_msg=f"{note} {arguments} {more}")
        if not arguments and names == others and named and saver.startswith(("tl", "keras", "npz", "safe")):
            assert found.ok, f"{note} {found.problems}"
    shutil.rmtree(folder)


@pytest.mark.parametrize("saver", ["tl.keras", "tl.weights.h5", "tl.safetensors", "tl.ckpt", "keras.keras", "keras.weights.h5", "npz", "safetensors"])
def test_a_second_build_is_restored_by_renumbering(tmp_path, saver):
    """Built twice in one session, with the names that Keras gives."""
    kinds = [*BLOCKS, "dense", "nested", "both"]
    saved, model = (fill(build(kinds, [None] * (len(kinds) + 1)), seed) for seed in (0, 1))
    path = write(saved, saver, tmp_path)
    refused = tl.plan(model, path)
    assert refused.ok or "rename='renumber' would find everything that is missing." in refused.problems
    tl.restore(model, path, rename="renumber", unused="error")
    np.testing.assert_allclose(outputs(model), outputs(saved), atol=1e-6)
