"""Serve an exported model in this process and ask it for a ranking over gRPC.

    python examples/serve_and_call.py --model_base_path work/serving/psad

In production `tensorflow/serving` serves the same folder, and the client is the same (docs/serving.md).
"""

from __future__ import annotations

import argparse

from psad_tf.serving.client import CallPolicy, Candidate, HistoryItem, RerankClient, RerankRequest
from psad_tf.serving.server import EmbeddedServer

REQUEST = RerankRequest(
    user_id="u3",
    time=1_702_000_000,
    context={"device": "phone"},
    history=[HistoryItem("i5", time=1_701_990_000, features={"tags": ["books", "tea"]})],
    candidates=[
        Candidate("i1", initial_score=0.9, features={"tags": ["shoes"], "price": 59.0}),
        Candidate("i2", initial_score=0.8, features={"tags": ["books"], "price": 12.0}),
        Candidate("i7", initial_score=0.7, features={"tags": ["tea", "games"], "price": 8.5}),
        Candidate("i9", initial_score=0.6, features={"tags": ["bags"]}, blocked=True),  # never shown
    ],
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model_base_path", default="work/serving/psad", help="folder of versions")
    arguments = parser.parse_args()
    # Past the deadline, or when the server is down, the caller gets the initial order and the reason.
    policy = CallPolicy(timeout=1.0)
    with (
        EmbeddedServer.of_model("psad", arguments.model_base_path) as server,
        RerankClient(server.address, policy=policy) as client,
    ):
        ranking = client.rerank(REQUEST, top=3)
    print(f"answered by: {ranking.source}")
    for item in ranking.items:
        print(f"{item.item_id}  score {item.score}  was at {item.position}")


if __name__ == "__main__":
    main()
