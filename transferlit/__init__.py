"""Save, restore, freeze and cache: reuse trained Keras models by real names.

The names below load their module, and with it TensorFlow, on first use:
`import transferlit` alone is light.
"""
from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "by_path": "paths", "select": "paths",
    "lower": "cut", "split": "cut", "upper": "cut", "Split": "cut",
    "open_weights": "formats", "peek": "formats",
    "Plan": "checkpoint", "convert": "checkpoint", "plan": "checkpoint", "restore": "checkpoint", "save": "checkpoint",
    "graft": "surgery",
    "Revived": "revival", "revive": "revival",
    "freeze": "freezing", "thaw": "freezing", "trainability": "freezing",
    "stop_after": "barrier",
    "Features": "features", "precompute": "features",
    "RemoteStore": "store",
    "fit": "caching", "sweep": "caching",
    "Stage": "finetuning", "finetune": "finetuning",
    "share": "sharing", "shared": "sharing",
    "plot_break_even": "plot", "plot_features": "plot", "plot_history": "plot", "plot_model": "plot",
}
__all__ = sorted(_HOME)


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f"transferlit.{_HOME[name]}"), name)
    if name in _HOME.values() or name in ("demo", "files", "loop", "store", "tables", "tf1"):
        return import_module(f"transferlit.{name}")
    raise AttributeError(f"module 'transferlit' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOME])
