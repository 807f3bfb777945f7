"""What earlier Keras wrote is read by the same program of today, made anew with other numbers, or refused in words."""
import importlib.util
import os
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import pytest

import transferlit as tl

HERE = Path(__file__).parent / "fixtures"
SPEC = importlib.util.spec_from_file_location("old_files", Path(__file__).parents[2] / "tools/old_files.py")
old_files = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(old_files)
FILES = [(a.stem, f) for a in sorted(HERE.glob("*.zip")) for f in zipfile.ZipFile(a).namelist() if not f.endswith((".npz", "checkpoint")) and ".data-" not in f]


@pytest.mark.parametrize("version, file", FILES)
def test_same_outputs_or_a_refusal(tmp_path, version, file):
    with zipfile.ZipFile(HERE / f"{version}.zip") as archive:
        archive.extractall(tmp_path)
    kind, path, x = file.partition(".")[0], tmp_path / file.removesuffix(".index"), old_files.inputs()
    done = []
    for arguments in {}, {"rename": "renumber"}, {"by": "position"}:
        keras.utils.clear_session()  # the numbers that Keras gives begin anew, as they did then
        model = old_files.build(keras, kind)
        model(x)
        try:
            tl.restore(model, path, **arguments)
        except ValueError as error:
            assert "Received" in str(error)
            continue
        np.testing.assert_allclose(model(x), np.load(tmp_path / "want.npz")[kind], atol=1e-5, err_msg=str(arguments))
        done.append(arguments)
    assert done or kind != "named" and file.endswith(".index")  # the objects lie elsewhere now
    assert {} in done or kind != "named" or not file.endswith(".keras")
