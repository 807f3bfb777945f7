"""Many training steps inside one compiled function, over rows in memory, in blocks or as they flow."""
from .blocks import Blocks, Turns
from .memory import free_memory, hold
from .rows import Rows
from .running import ByKeras, Plan, run
from .stacked import run_many, stackable
from .steps import build, build_for, forget, own_step
from .streams import Made, Stored, Stream

__all__ = [
    "Blocks",
    "build",
    "build_for",
    "ByKeras",
    "forget",
    "free_memory",
    "hold",
    "Made",
    "own_step",
    "Plan",
    "Rows",
    "run",
    "run_many",
    "stackable",
    "Stored",
    "Stream",
    "Turns",
]
