"""What weight files hold, read without running code: one mapping from path to array for every format."""
from .entries import BadFile, MissingPart, UnsafeFile, Weights
from .archives import open_safetensors, write_safetensors
from .tf_checkpoint import data_files, write_bundle
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
    "data_files",
    "make_plan",
    "match_stored",
    "MissingPart",
    "open_safetensors",
    "open_weights",
    "peek",
    "Plan",
    "rename_all",
    "RENAMES",
    "replace_file",
    "state_as_json",
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
