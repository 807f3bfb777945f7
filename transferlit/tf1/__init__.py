"""TensorFlow 1 graphs and Keras 2 files: read, reduced to their outputs, turned into Keras."""
from ..backends import need_tensorflow

need_tensorflow()  # what stands below imports it

from .graph_files import GraphFile, find_graph, read_graph
from .limits import Limits
from .revived import Revived, RevivedKeras

__all__ = ["find_graph", "GraphFile", "Limits", "read_graph", "Revived", "RevivedKeras"]
