"""Many training steps inside one compiled function, over rows in memory or in blocks from elsewhere."""
from .steps import (
    Blocks,
    Rows,
    Turns,
    array,
    build,
    build_for,
    flat,
    forget,
    map_flat,
    own_step,
    run,
    run_many,
    stackable,
    tensors,
)

__all__ = [
    "array",
    "Blocks",
    "build",
    "build_for",
    "flat",
    "forget",
    "map_flat",
    "own_step",
    "Rows",
    "run",
    "run_many",
    "stackable",
    "tensors",
    "Turns",
]
