"""Activations of the frozen part: what they depend on, how they are computed once, and what keeps them."""
from .ray_dataset import Columns, row_marks
from .extraction import Features, check_count, check_numbers, precompute

__all__ = ["check_count", "check_numbers", "Columns", "Features", "precompute", "row_marks"]
