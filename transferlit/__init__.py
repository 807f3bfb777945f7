"""Save, restore, freeze and cache: reuse trained Keras models by real names.

The names below load their module, and with it TensorFlow, on first use:
`import transferlit` alone is light.
"""
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "by_path": "paths", "select": "paths",
    "Split": "cut", "lower": "cut",
    "split": "cut", "upper": "cut",
    "open_weights": "formats", "peek": "formats",
    "Plan": "checkpoint", "convert": "checkpoint",
    "plan": "checkpoint", "restore": "checkpoint", "save": "checkpoint",
    "graft": "surgery",
    "Revived": "revival", "revive": "revival",
    "freeze": "freezing", "thaw": "freezing",
    "trainability": "freezing",
    "stop_after": "barrier",
    "Features": "features", "precompute": "features",
    "RemoteStore": "store",
    "fit": "caching", "sweep": "sweeping",
    "Stage": "finetuning", "finetune": "finetuning",
    "share": "sharing", "shared": "sharing",
    "plot_break_even": "plot", "plot_features": "plot",
    "plot_history": "plot", "plot_model": "plot",
}
_MODULES = {*_HOME.values(), "demo", "files", "loop", "store", "tables", "tf1"}
__all__ = sorted(_HOME)

if TYPE_CHECKING:  # what editors and type checkers see; a test compares it with the table above
    from .paths import by_path as by_path, select as select
    from .cut import Split as Split, lower as lower
    from .cut import split as split, upper as upper
    from .formats import open_weights as open_weights, peek as peek
    from .checkpoint import Plan as Plan, convert as convert
    from .checkpoint import plan as plan, restore as restore, save as save
    from .surgery import graft as graft
    from .revival import Revived as Revived, revive as revive
    from .freezing import freeze as freeze, thaw as thaw
    from .freezing import trainability as trainability
    from .barrier import stop_after as stop_after
    from .features import Features as Features, precompute as precompute
    from .store import RemoteStore as RemoteStore
    from .caching import fit as fit
    from .sweeping import sweep as sweep
    from .finetuning import Stage as Stage, finetune as finetune
    from .sharing import share as share, shared as shared
    from .plot import plot_break_even as plot_break_even, plot_features as plot_features
    from .plot import plot_history as plot_history, plot_model as plot_model
else:

    def __getattr__(name):
        if name in _HOME:
            from .docstrings import add_parameters

            try:
                found = add_parameters(getattr(import_module(f"transferlit.{_HOME[name]}"), name))
            except ModuleNotFoundError:
                raise
            except ImportError as error:  # in our words: it needs a package that is not installed
                return _stand_in(name, error)
            globals()[name] = found
            return found
        if name in _MODULES:
            return import_module(f"transferlit.{name}")
        raise AttributeError(f"module 'transferlit' has no attribute {name!r}")


def _stand_in(name, error):
    "What says so when it is called: `import *`, `help` and completion ask for every name."

    def refuse(cls, *args, **kwargs):
        raise ImportError(str(error)) from error

    return type(name, (), {"__new__": refuse, "__doc__": str(error)})


def __dir__():
    return sorted([*globals(), *_HOME])
