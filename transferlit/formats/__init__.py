"""What weight files hold, read without running code: one mapping from path to array for every format."""
from .entries import BadFile, MissingPart, UnsafeFile, Weights
from .safetensors import open_safetensors, write_safetensors
from .keras_files import copy_keras, read_legacy_arrays, read_model_config
from .tf_checkpoint import data_files, missing_data, stored_names, write_bundle
from .location import Location, explain_no_graph, locate
from .reading import open_weights, peek

__all__ = [
    "BadFile",
    "copy_keras",
    "data_files",
    "explain_no_graph",
    "locate",
    "Location",
    "missing_data",
    "MissingPart",
    "open_safetensors",
    "open_weights",
    "peek",
    "read_legacy_arrays",
    "read_model_config",
    "stored_names",
    "UnsafeFile",
    "Weights",
    "write_bundle",
    "write_safetensors",
]
