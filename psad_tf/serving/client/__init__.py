"""The client: a plain Python request in, ranked items out, whatever happens to the server.

    from psad_tf.serving.client import Candidate, RerankClient, RerankRequest

    with RerankClient("127.0.0.1:8500") as client:
        ranking = client.rerank(RerankRequest("user-7", [Candidate("a"), Candidate("b")]))

Works the same against TensorFlow Serving and the embedded server; `AsyncRerankClient` is the same for
asyncio.
"""

from psad_tf.serving.client.aio import AsyncRerankClient
from psad_tf.serving.client.channel import Tls
from psad_tf.serving.client.conversation import ModelChoice
from psad_tf.serving.client.policy import CallPolicy, RerankError
from psad_tf.serving.client.ranking import RankedItem, Ranking
from psad_tf.serving.client.requests import Candidate, HistoryItem, RerankRequest
from psad_tf.serving.client.sync import RerankClient

__all__ = [
    "AsyncRerankClient",
    "CallPolicy",
    "Candidate",
    "HistoryItem",
    "ModelChoice",
    "RankedItem",
    "Ranking",
    "RerankClient",
    "RerankError",
    "RerankRequest",
    "Tls",
]
