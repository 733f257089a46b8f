"""What a simulated world and its logs are made of, and three worlds by name."""

from __future__ import annotations

import dataclasses

from psad_tf.errors import InputError

POLICY_NAMES = ("initial", "reranker")


@dataclasses.dataclass(frozen=True)
class SimulatorConfig:
    """The world and its logs.

    Args:
        lists: Lists to log.
        candidates: N, candidates of a list.
        shown: L, how many of a list's candidates are shown; 0 shows all.
        items: Items in the world.
        categories: Categories.
        user_types: Hidden types of users.
        lists_per_user: Requests of a user, one a round, a day apart; the last tenth of the rounds (at least
            one) is test, the tenth before it validation.
        past_clicks: Mean number of clicks of a user before the first request.
        position_bias: Exponent of the examination probability.
        repeat: Logit lost for each earlier item of the same category.
        complement: Logit gained after an item of the complemented category.
        interest: Standard deviation of the types' interests.
        deviation: Standard deviation of a user's own interest around the type's.
        quality: Standard deviation of the items' quality.
        max_drift: Types' drift rates are spread evenly from 0 to this.
        bias: Logit of an average item.
        ranker_noise: Standard deviation of the noise of the initial ranker, which scores
            quality + first[category] + noise and knows nothing of drift, repeats and complements.
        policy: Which candidates are shown, and in which order: `initial`, the initial ranker's first L, or
            `reranker`, the first L of a previous reranker (`policies.py`). Candidates stand in the initial
            order all the same, and the shown ones name their `position`.
        explore: Share of the lists that show L random candidates in random order instead, so that their
            clicks tell relevance apart from position.
        visible: Probability that the attribute `segment` names the true type.
        history_length: H, past clicks that a list's record keeps.
        start_time: Seconds; time of the first round.
        seed: World, users and logs follow from it.
    """

    lists: int = 10_000
    candidates: int = 20
    shown: int = 0
    items: int = 2_000
    categories: int = 12
    user_types: int = 6
    lists_per_user: int = 10
    past_clicks: float = 15.0
    position_bias: float = 0.7
    repeat: float = 0.3
    complement: float = 1.0
    interest: float = 1.0
    deviation: float = 0.3
    quality: float = 1.0
    max_drift: float = 0.3
    bias: float = -1.0
    ranker_noise: float = 2.5
    policy: str = "initial"
    explore: float = 1.0
    visible: float = 0.6
    history_length: int = 50
    start_time: int = 1_700_006_400
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("candidates", "categories", "user_types", "history_length"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.lists_per_user < 3:
            raise InputError(f"lists_per_user: must be at least 3, got {self.lists_per_user}")
        if self.lists < self.lists_per_user:
            raise InputError(f"lists: must be at least {self.lists_per_user}, got {self.lists}")
        if self.items < self.candidates:
            raise InputError(f"items: {self.items} items cannot fill lists of {self.candidates} candidates")
        if not 0 <= self.shown <= self.candidates:
            raise InputError(f"shown: must be 0 to {self.candidates}, got {self.shown}")
        if self.policy not in POLICY_NAMES:
            raise InputError(f"policy: {self.policy!r} is not one of {', '.join(POLICY_NAMES)}")
        if not 0.0 <= self.explore <= 1.0:
            raise InputError(f"explore: must be in [0, 1], got {self.explore}")
        if self.seed < 0:
            raise InputError(f"seed: must be 0 or more, got {self.seed}")

    @property
    def slots(self) -> int:
        """L, the number of candidates that are shown."""
        return self.shown or self.candidates

    @property
    def users(self) -> int:
        """Number of users."""
        return -(-self.lists // self.lists_per_user)


PRESETS = {
    # What a list is worth is far from the sum of what its items are worth alone.
    "interactions": SimulatorConfig(
        shown=6, categories=6, repeat=1.0, complement=2.0, explore=0.1, history_length=20
    ),
    # The same without any effect of the list: nothing can be gained by looking at it.
    "independent": SimulatorConfig(
        shown=6,
        categories=6,
        repeat=0.0,
        complement=0.0,
        max_drift=0.0,
        explore=0.1,
        history_length=20,
    ),
    # All candidates are shown, in random order, with weak list effects, as when a user rates what there is.
    "ratings": SimulatorConfig(),
}
