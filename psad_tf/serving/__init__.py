"""Serving: a client, an embedded server that speaks TensorFlow Serving's gRPC API, and their contract.

`client.RerankClient` asks the embedded server, or TensorFlow Serving itself, for a ranking;
`server.EmbeddedServer` serves SavedModel folders; `contract` is what both share with the exporter. None of
them knows how the model was trained.
"""
