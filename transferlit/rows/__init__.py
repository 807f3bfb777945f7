"""Where rows lie and in what order an epoch takes them: in memory, in blocks, or as a pipeline gives them."""
from .rows import Epochs, Rows, skip_draw
from .memory import free_memory, hold
from .streams import Made, Stored, Stream

__all__ = [
    "Epochs",
    "free_memory",
    "hold",
    "Made",
    "Rows",
    "skip_draw",
    "Stored",
    "Stream",
]
