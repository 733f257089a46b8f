"""Serving: an embedded server that speaks TensorFlow Serving's API, and a client for either.

`EmbeddedServer` (in `server.py`) serves SavedModel folders; `RerankClient` (in `client.py`) asks it, or
TensorFlow Serving itself, for a ranking. Neither knows how the model was trained.
"""
