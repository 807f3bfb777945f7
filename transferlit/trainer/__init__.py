"""What `fit` is made of: its arguments checked, the rows of each epoch, validation, and what is left to Keras."""
from .job import Job, cap_job, plan
from .checks import check, check_fits, check_labels
from .fallback import by_keras, why_keras
from .validation import own_validation
from .preparing import prepare
from .own_fit import by_own_fit, has_own_fit

__all__ = [
    "by_keras",
    "by_own_fit",
    "cap_job",
    "check",
    "check_fits",
    "check_labels",
    "has_own_fit",
    "Job",
    "own_validation",
    "plan",
    "prepare",
    "why_keras",
]
