"""Real checkpoints from the wild open with the variables that TensorFlow's and Keras' own readers report."""
import json
import os
from pathlib import Path

import numpy as np
import pytest

from transferlit.formats.reading import open_weights

ROOT = Path(os.environ.get("TRANSFERLIT_CHECKPOINTS", ""))
pytestmark = pytest.mark.skipif(not (ROOT / "manifest.json").is_file(), reason="TRANSFERLIT_CHECKPOINTS names no set of checkpoints")
SET = json.loads((ROOT / "manifest.json").read_text("utf-8")) if (ROOT / "manifest.json").is_file() else []


def where(entry):
    return ROOT / entry["dir"] / (entry["prefix"] or "")


def reported(entry):
    """Shape and dtype of each variable, sorted: names differ between readers, contents do not."""
    return sorted((tuple(v[1]), v[2]) for v in entry["report"]["variables"])


@pytest.mark.parametrize("entry", [e for e in SET if e["status"] == "complete"], ids=lambda e: e["id"])
def test_complete(entry):
    with open_weights(where(entry)) as weights:
        found = sorted((tuple(w.shape), str(w.dtype)) for w in weights.values() if w.dtype != object)
        missing = [v for v in reported(entry) if v not in found and v[1] not in ("string", "object")]
        assert not missing
        for name, stored in weights.items():
            assert np.asarray(stored).shape == tuple(stored.shape), name


@pytest.mark.parametrize("entry", [e for e in SET if e["status"] == "damaged"], ids=lambda e: e["id"])
def test_damaged(entry):
    with pytest.raises((ValueError, OSError)) as caught:
        with open_weights(where(entry)) as weights:
            for stored in weights.values():
                np.asarray(stored)
    assert "Received" in str(caught.value)
    assert any(name.split()[0] in str(caught.value) for name in entry["missing"])
