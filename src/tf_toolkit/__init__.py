"""Training-container runtime toolkit for TensorFlow. Importing it imports nothing and touches nothing."""

__version__ = "0.1.0"
