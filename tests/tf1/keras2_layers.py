"""Files of Keras 2, one a kind of layer, written from what `keras2_layers.json` says of them."""
import json
import zlib
from pathlib import Path

import h5py
import numpy as np

TABLE = Path(__file__).with_name("keras2_layers.json")


def draw(name, *more): return np.random.default_rng([zlib.crc32(name.encode()), *more])


def array(layer, name, shape, dtype):
    "A weight drawn by its names; a variance is positive."
    numbers = draw(f"{layer} {name}").normal(size=shape)*.4
    return (np.abs(numbers) + .3 if "variance" in name else numbers).astype(dtype)


def inputs(entry):
    found = []
    for i, (shape, dtype, top) in enumerate(entry["inputs"]):
        source = draw(entry["kind"], i)
        found.append((source.integers(0, top, shape) if top else source.normal(size=shape)).astype(dtype))
    return found


def summary(arrays):
    "Eight projections of all numbers of some arrays, and their shapes."
    flat = np.concatenate([np.ravel(np.asarray(a, "float64")) for a in arrays])
    return [list(np.shape(a)) for a in arrays], [float(draw("projection", i).normal(size=flat.size)@flat) for i in range(8)]


def write(entry, path):
    "An `.h5` file as Keras 2 lays it out."
    with h5py.File(path, "w") as file:
        file.attrs.update(model_config=json.dumps(entry["config"]), keras_version=entry["version"], backend="tensorflow")
        top = file.create_group("model_weights")
        top.attrs.update(layer_names=[n.encode() for n, _ in entry["layers"]], keras_version=entry["version"], backend="tensorflow")
        for layer, weights in entry["layers"]:
            group = top.require_group(layer)
            group.attrs["weight_names"] = [w.encode() for w, _, _ in weights]
            for name, shape, dtype in weights: group.create_dataset(name, data=array(layer, name, shape, dtype))
    return path
