"""PSAD: personalized semi-autoregressive reranking with online knowledge distillation, on TensorFlow."""

__version__ = "0.2.0.dev0"
