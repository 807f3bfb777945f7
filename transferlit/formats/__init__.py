"""What weight files hold, read without running code: one mapping from path to array for every format."""
from importlib import import_module

from .entries import BadFile, MissingPart, UnsafeFile, Weights
from .safetensors import open_safetensors, write_safetensors
from .keras_files import check_work, copy_keras, read_legacy_arrays, read_model_config
from .tf_checkpoint import missing_data, stored_names
from .location import explain_no_graph, locate
from .reading import open_weights, peek

_HOME = {  # what needs Keras, and is loaded on first use: reading a file does not
    "replace_file": "writing",
    "write_arrays": "writing",
    "write_checkpoint": "writing",
    "write_model": "writing",
    "writer_for": "writing",
    "RENAMES": "matching",
    "match_stored": "matching",
    "rename_all": "matching",
    "state_as_json": "state",
    "TRANSFORMS": "transforms",
    "assign_all": "assigning",
    "Asked": "planning",
    "Plan": "planning",
    "as_patterns": "planning",
    "make_plan": "planning",
}

__all__ = [
    "as_patterns",
    "Asked",
    "assign_all",
    "BadFile",
    "check_work",
    "copy_keras",
    "explain_no_graph",
    "locate",
    "make_plan",
    "match_stored",
    "missing_data",
    "MissingPart",
    "open_safetensors",
    "open_weights",
    "peek",
    "Plan",
    "read_legacy_arrays",
    "read_model_config",
    "rename_all",
    "RENAMES",
    "replace_file",
    "state_as_json",
    "stored_names",
    "TRANSFORMS",
    "UnsafeFile",
    "Weights",
    "write_arrays",
    "write_checkpoint",
    "write_model",
    "write_safetensors",
    "writer_for",
]


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f"transferlit.formats.{_HOME[name]}"), name)
    raise AttributeError(f"module 'transferlit.formats' has no attribute {name!r}")
