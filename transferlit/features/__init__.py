"""Activations of the frozen part: what they depend on, how they are computed once, and what keeps them."""
from .ray_dataset import Columns, row_marks
from .features import Features
from .extraction import functions_of
from .computing import precompute

__all__ = ["Columns", "Features", "functions_of", "precompute", "row_marks"]
