"""What `fit` is made of: arguments checked, the rows of each epoch, validation, and what Keras does."""
from .job import Job
from .checks import check, check_rows
from .fallback import by_keras, why_keras
from .validation import own_validation
from .preparing import prepare
from .own_fit import by_own_fit, has_own_fit

__all__ = [
    "by_keras",
    "by_own_fit",
    "check",
    "check_rows",
    "has_own_fit",
    "Job",
    "own_validation",
    "prepare",
    "why_keras",
]
