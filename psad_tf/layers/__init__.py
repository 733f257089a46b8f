"""Keras layers that PSAD is built of."""
