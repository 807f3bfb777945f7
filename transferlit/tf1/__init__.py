"""TensorFlow 1 graphs and Keras 2 files: read, reduced to what computes the outputs, and turned into Keras layers."""
