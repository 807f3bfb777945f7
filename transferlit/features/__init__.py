"""Activations of the frozen part: what they depend on, how they are computed once, and what keeps them."""
from .ray_dataset import Columns, row_marks
from .intake import check_count, check_numbers
from .features import Features
from .computing import precompute

__all__ = ["check_count", "check_numbers", "Columns", "Features", "precompute", "row_marks"]
