"""The embedded server: TensorFlow Serving's gRPC API from the same folders and files, in this process.

from psad_tf.serving.server import EmbeddedServer

with EmbeddedServer.of_model("psad", "models/psad") as server:
    server.address
"""

from psad_tf.serving.server.embedded import EmbeddedServer
from psad_tf.serving.server.settings import Batching, ServerSettings, single_model_config

__all__ = ["Batching", "EmbeddedServer", "ServerSettings", "single_model_config"]
