"""What weight files hold, read without running code: one mapping from path to array for every format."""
from .entries import Stored, Weights
from .keras_files import KerasFile
from .tf_checkpoint import read_index
from .location import locate_graph
from .reading import open_weights, peek
from .arrays import replace_file, write_arrays, writer_for

__all__ = [
    "KerasFile",
    "locate_graph",
    "open_weights",
    "peek",
    "read_index",
    "replace_file",
    "Stored",
    "Weights",
    "write_arrays",
    "writer_for",
]
