"""What weight files hold, read without running code: one mapping from path to array for every format."""
from importlib import import_module

from .entries import Stored, Weights
from .keras_files import KerasFile, legacy_name, named_layers
from .tf_checkpoint import read_index
from .location import locate_graph
from .reading import open_weights, peek

_ON_USE = {  # what imports more than reading needs
    "limit_model": "model_limits",
    "replace_file": "arrays",
    "write_arrays": "arrays",
    "writer_for": "arrays",
}

__all__ = [
    "KerasFile",
    "legacy_name",
    "limit_model",
    "locate_graph",
    "named_layers",
    "open_weights",
    "peek",
    "read_index",
    "replace_file",
    "Stored",
    "Weights",
    "write_arrays",
    "writer_for",
]


def __getattr__(name):
    if name in _ON_USE:
        return getattr(import_module(f"transferlit.formats.{_ON_USE[name]}"), name)
    raise AttributeError(f"module 'transferlit.formats' has no attribute {name!r}")
