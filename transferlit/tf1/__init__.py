"""TensorFlow 1 graphs and Keras 2 files: read, reduced to their outputs, turned into Keras layers."""
