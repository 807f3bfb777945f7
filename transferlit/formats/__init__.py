"""What weight files hold, read without running code: one mapping from path to array for every format."""
from .entries import BadFile, MissingPart, UnsafeFile, Weights
from .safetensors import open_safetensors, write_safetensors
from .keras_files import copy_keras, read_legacy_arrays, read_model_config
from .tf_checkpoint import data_files, missing_data, stored_names, write_bundle
from .location import Location, explain_no_graph, locate
from .reading import open_weights, peek
from .writing import replace_file, write_arrays, write_checkpoint, write_model, writer_for
from .matching import RENAMES, match_stored, rename_all
from .state import state_as_json
from .transforms import TRANSFORMS
from .assigning import assign_all
from .planning import Asked, Plan, as_patterns, make_plan

__all__ = [
    "as_patterns",
    "Asked",
    "assign_all",
    "BadFile",
    "copy_keras",
    "data_files",
    "explain_no_graph",
    "locate",
    "Location",
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
    "write_bundle",
    "write_checkpoint",
    "write_model",
    "write_safetensors",
    "writer_for",
]
