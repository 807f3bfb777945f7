"""TensorFlow 1 graphs and Keras 2 files: read, reduced to their outputs, turned into Keras."""
from .graph_files import GraphFile, locate, read_graph
from .limits import Limits
from .revived import Revived, RevivedKeras

__all__ = ["GraphFile", "Limits", "locate", "read_graph", "Revived", "RevivedKeras"]
