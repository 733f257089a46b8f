"""What exporter, server and client agree on: names, missing values, padding, the files of a version.

Imports nothing of the library, so that each side can be used without the others.
"""

from __future__ import annotations

import dataclasses
import math
import os

# Signatures, and the inputs that are no features.
SERVING_DEFAULT = "serving_default"
RERANK_MASKED = "rerank_masked"
RERANK_EXAMPLES = "rerank_examples"
SIGNATURES = (SERVING_DEFAULT, RERANK_MASKED, RERANK_EXAMPLES)
EXAMPLES = "examples"
BLOCKED = "blocked"

# Outputs.
SCORES = "scores"
PROBABILITIES = "probabilities"
RANKING = "ranking"
ITEM_IDS = "item_ids"
LENGTH = "length"
OUTPUTS = (SCORES, PROBABILITIES, RANKING, ITEM_IDS, LENGTH)

# A feature that a request lacks.
MISSING_TEXT = ""
MISSING_NUMBER = math.nan
MISSING_RANK = -1

# What stands past a list's end; a blocked item keeps its place in `ranking` and has no item id there.
PADDING_POSITION = -1
PADDING_ITEM_ID = ""

# Files of a version, `<base>/<model>/<version>/`.
GRAPH_FILE = "saved_model.pb"
FILES_LIST = os.path.join("assets.extra", "files.json")
WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
MAX_WARMUP_RECORDS = 1000  # TensorFlow Serving replays no more
LIMITS_FILE = os.path.join("assets.extra", "limits.json")

# Lists are padded to the next of these numbers of candidates where a shape has to be one of few.
LIST_SIZES = (20, 50, 100, 200, 500, 1000)
# Serialized lists times the longest one, in bytes: parsing pads every list to the longest.
MAX_SERIALIZED_BYTES = 2**24
_MAX_SLOTS = 2**15
_MAX_LISTS_OF_ANY_LENGTH = 32  # serving_config/batching_parameters.txt


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much one model takes at once; written into its graph and, for servers, beside it.

    Args:
        max_candidates: Candidates of one list.
        history_length: Interactions of one history that the model looks at.
    """

    max_candidates: int
    history_length: int

    @property
    def max_slots(self) -> int:
        """Lists times the longest list, or times the history if that is longer: what a batch is padded to.

        A batch of 32 lists always fits.
        """
        max_length = max(self.max_candidates, self.history_length)
        return max(_MAX_SLOTS, _MAX_LISTS_OF_ANY_LENGTH * max_length)

    @property
    def list_sizes(self) -> tuple[int, ...]:
        """Numbers of candidates to pad to, the last one `max_candidates`."""
        return (*(size for size in LIST_SIZES if size < self.max_candidates), self.max_candidates)
