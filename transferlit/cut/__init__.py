"""Where in the graph: below a layer, above it, and the largest part that cannot change."""
from .values import Reading, read_layer
from .fingerprints import fingerprint, open_ended
from .halves import lower, upper
from .splitting import Split, by_hand, split

__all__ = [
    "Reading",
    "by_hand",
    "fingerprint",
    "lower",
    "open_ended",
    "Split",
    "split",
    "read_layer",
    "upper",
]
