"""TensorFlow 1 graphs and Keras 2 files: read, reduced to their outputs, turned into Keras layers."""
from .graph_files import GraphFile, locate, read_graph
from .revived import Revived, RevivedKeras

__all__ = ["GraphFile", "locate", "read_graph", "Revived", "RevivedKeras"]
