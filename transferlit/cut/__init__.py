"""Where in the graph: below a layer, above it, and the largest part that cannot change."""
from .fingerprints import code_of, fingerprint, open_ended, settings_of, told_of
from .halves import lower, upper
from .splitting import Split, by_hand, split

__all__ = [
    "by_hand",
    "code_of",
    "fingerprint",
    "lower",
    "open_ended",
    "settings_of",
    "Split",
    "split",
    "told_of",
    "upper",
]
