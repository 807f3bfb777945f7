"""Each kind of layer of Keras 2: revived it computes what Keras 2 did, or it is refused with the reason."""
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import transferlit as tl

sys.path.insert(0, str(Path(__file__).parent))
from keras2_layers import TABLE, array, inputs, summary, write  # noqa: E402

ENTRIES = {e["kind"]: e for e in json.loads(TABLE.read_text())}
REFUSED = {"LC1": "Keras 3 has no such layer", "LC2": "Keras 3 has no such layer"}


def revived(kind, folder): return tl.revive(write(ENTRIES[kind], folder/"m.h5"))


def computed(model, entry):
    arrays = inputs(entry)
    given = arrays if len(arrays) > 1 else arrays[0]
    named = getattr(model, "_inputs_struct", None)
    if isinstance(named, dict): given = dict(zip(named, arrays))
    return [np.asarray(a) for a in keras.tree.flatten(model(given, training=False))]


@pytest.mark.parametrize("kind", sorted(set(ENTRIES) - set(REFUSED)))
def test_kind(kind, tmp_path):
    entry = ENTRIES[kind]
    shapes, numbers = summary(computed(revived(kind, tmp_path).to_keras(), entry))
    assert shapes == entry["shapes"]
    np.testing.assert_allclose(numbers, entry["numbers"], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_refused_with_the_reason(kind, tmp_path):
    with pytest.raises(ValueError, match=REFUSED[kind]): revived(kind, tmp_path)


def test_the_numbers_tell_weights_apart(tmp_path):
    "The comparison fails where one weight is another."
    model = revived("Dense", tmp_path).to_keras()
    model.layers[-1].bias.assign_add([1., 0, 0])
    numbers = summary(computed(model, ENTRIES["Dense"]))[1]
    assert not np.allclose(numbers, ENTRIES["Dense"]["numbers"], rtol=2e-4, atol=2e-4)


def test_a_name_with_a_slash_is_told_and_found(tmp_path):
    old = revived("dotted_names", tmp_path)
    assert any("out/put" in note for note in old.notes)
    assert old.to_keras(outputs="out/put").layers[-1].name == "out_put"
    name, shape, dtype = next(w for n, ws in ENTRIES["dotted_names"]["layers"] if n == "out/put" for w in ws)
    np.testing.assert_array_equal(old.to_keras().get_layer("out_put").kernel, array("out/put", name, shape, dtype))
