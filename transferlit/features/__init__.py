"""Activations of the frozen part: what they depend on, how they are computed once, and what keeps them."""
from importlib import import_module
from typing import TYPE_CHECKING

from .ray_dataset import Columns, row_marks

# The tasks of a Ray Dataset import this package for `Columns`, in many processes: Keras comes in with what needs it.
_ON_USE = {"Features": "features", "functions_of": "extraction", "precompute": "computing"}
__all__ = ["Columns", "Features", "functions_of", "precompute", "row_marks"]

if TYPE_CHECKING:
    from .features import Features as Features
    from .extraction import functions_of as functions_of
    from .computing import precompute as precompute
else:

    def __getattr__(name):
        if name in _ON_USE:
            return getattr(import_module(f"transferlit.features.{_ON_USE[name]}"), name)
        raise AttributeError(f"module 'transferlit.features' has no attribute {name!r}")
