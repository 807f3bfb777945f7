"""What weight files hold, read without running code: one mapping from path to array for every format."""
from importlib import import_module

from .entries import BadFile, MissingPart, Stored, UnsafeFile, Weights, explain_faults
from .keras_files import KerasFile, check_config, legacy_name, named_layers
from .tf_checkpoint import read_index
from .location import locate_graph
from .reading import open_weights, peek

_WRITING = {"check_file", "check_names", "replace_file", "write_arrays", "writer_for"}  # on first use

__all__ = [
    "BadFile",
    "check_file",
    "check_names",
    "check_config",
    "explain_faults",
    "KerasFile",
    "legacy_name",
    "locate_graph",
    "MissingPart",
    "named_layers",
    "open_weights",
    "peek",
    "read_index",
    "replace_file",
    "Stored",
    "UnsafeFile",
    "Weights",
    "write_arrays",
    "writer_for",
]


def __getattr__(name):
    if name in _WRITING:
        return getattr(import_module("transferlit.formats.arrays"), name)
    raise AttributeError(f"module 'transferlit.formats' has no attribute {name!r}")
