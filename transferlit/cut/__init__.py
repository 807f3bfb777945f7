"""Where in the graph: below a layer, above it, and the largest part that cannot change."""
from .values import Reading, read_layer
from .fingerprints import code_of, fingerprint, open_ended, settings_of
from .halves import lower, upper
from .splitting import Split, by_hand, split

__all__ = [
    "Reading",
    "by_hand",
    "code_of",
    "fingerprint",
    "lower",
    "open_ended",
    "settings_of",
    "Split",
    "split",
    "read_layer",
    "upper",
]
