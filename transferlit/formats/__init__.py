"""What weight files hold, read without running code: one mapping from path to array for every format."""
from .entries import BadFile, MissingPart, UnsafeFile, Weights
from .archives import open_safetensors, write_safetensors
from .tf_checkpoint import data_files, write_bundle
from .reading import open_weights, peek

__all__ = [
    "BadFile",
    "data_files",
    "MissingPart",
    "open_safetensors",
    "open_weights",
    "peek",
    "UnsafeFile",
    "Weights",
    "write_bundle",
    "write_safetensors",
]
