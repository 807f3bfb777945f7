"""The weights of a model and those of a file: written, matched with one another, planned, assigned."""
from .writing import write_model
from .matching import choose_stored
from .state import state_as_json
from .assigning import assign_all
from .planning import Asked, Plan, choose, make_plan

__all__ = [
    "Asked",
    "assign_all",
    "choose",
    "choose_stored",
    "make_plan",
    "Plan",
    "state_as_json",
    "write_model",
]
