"""Where in the graph: below a layer, above it, and the largest part that cannot change."""
from .splitting import (
    Split,
    by_hand,
    code_of,
    fingerprint,
    lower,
    open_ended,
    settings_of,
    split,
    told_of,
    upper,
)

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
