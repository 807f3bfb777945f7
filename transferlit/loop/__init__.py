"""Many training steps inside one compiled function, over rows in memory, in blocks or as they flow."""
from .running import ByKeras, run
from .stacked import run_many, stackable
from .steps import build, build_for, fits_inputs, forget, own_step

__all__ = [
    "build",
    "build_for",
    "ByKeras",
    "fits_inputs",
    "forget",
    "own_step",
    "run",
    "run_many",
    "stackable",
]
