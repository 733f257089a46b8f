"""What the pipeline demands of data and models: frozen, read from JSON, checked once."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from psad_tf.errors import InputError
from psad_tf.features import (
    HISTORY_PREFIX,
    INITIAL_RANK,
    NEGATIVE,
    RELEVANCE,
    FeatureDeclaration,
    from_plain,
    load_json,
)


@dataclasses.dataclass(frozen=True)
class RangeRule:
    """Every value of a dense feature lies in [at_least, at_most].

    Args:
        feature: Name on the wire.
        at_least: Smallest value.
        at_most: Largest value.
    """

    feature: str
    at_least: float
    at_most: float


@dataclasses.dataclass(frozen=True)
class PresenceRule:
    """A feature is missing in no more than a share of the candidates.

    Args:
        feature: Name on the wire.
        at_least: Share of the candidates that have it, 0 to 1.
    """

    feature: str
    at_least: float


@dataclasses.dataclass(frozen=True)
class DomainRule:
    """A categorical feature takes its values from a closed set.

    Args:
        feature: Name on the wire.
        values: The set.
        at_least: Share of the values that must lie in it, 0 to 1.
    """

    feature: str
    values: tuple[str, ...]
    at_least: float = 1.0


@dataclasses.dataclass(frozen=True)
class DriftRule:
    """The training lists' values of a feature are distributed nearly as those of the span before.

    Args:
        feature: Name on the wire.
        at_most: Largest distance, 0 to 1: of a categorical feature the largest change of a value's share
            (the L-infinity norm), of a dense one the Jensen-Shannon divergence.
    """

    feature: str
    at_most: float


@dataclasses.dataclass(frozen=True)
class DataRules:
    """Rules beyond what the feature declaration itself implies; data that break one fail the run."""

    ranges: tuple[RangeRule, ...] = ()
    presence: tuple[PresenceRule, ...] = ()
    domains: tuple[DomainRule, ...] = ()
    drift: tuple[DriftRule, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; `from_dict` gives it back equal."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any, where: str = "data rules") -> DataRules:
        """Reads decoded JSON.

        Raises:
            InputError: A key is unknown or of the wrong type.
        """
        return from_plain(cls, data, where)

    def check(self, declaration: FeatureDeclaration) -> None:
        """Refuses rules about features that are not declared, or that no value can meet.

        Raises:
            InputError: Naming the rule.
        """
        categorical = {
            *(each.name for each in declaration.context_categorical),
            *(HISTORY_PREFIX + each.name for each in declaration.history.categorical),
            *(each.name for each in declaration.candidate_categorical),
        }
        dense = {*declaration.dense_keys, RELEVANCE, NEGATIVE}
        for kind, rules, known in (
            ("ranges", self.ranges, dense),
            ("presence", self.presence, categorical | dense | {INITIAL_RANK}),
            ("domains", self.domains, categorical),
            ("drift", self.drift, categorical | dense),
        ):
            for rule in rules:
                if rule.feature not in known:
                    raise InputError(
                        f"data rules: {kind}: {rule.feature!r} is none of the declared features "
                        f"({', '.join(sorted(known))})"
                    )
        for each in self.ranges:
            if each.at_least > each.at_most:
                raise InputError(f"data rules: ranges: {each.feature}: at_least is above at_most")
        shares = [(each.feature, each.at_least) for each in self.presence]
        shares += [(each.feature, each.at_least) for each in self.domains]
        for feature, share in shares:
            if not 0.0 <= share <= 1.0:
                raise InputError(f"data rules: {feature}: at_least must be in [0, 1], got {share}")
        for distance in self.drift:
            if not 0.0 < distance.at_most <= 1.0:
                raise InputError(
                    f"data rules: drift: {distance.feature}: at_most must be in (0, 1], got "
                    f"{distance.at_most}"
                )


def load_data_rules(path: str | os.PathLike[str]) -> DataRules:
    """Reads `DataRules` from a JSON file."""
    return DataRules.from_dict(load_json(path), os.fspath(path))


@dataclasses.dataclass(frozen=True)
class BlessingRules:
    """What a candidate model must reach on the test lists to be pushed; all is NDCG@10.

    Args:
        ndcg_at_least: Mean over all test lists.
        gain_at_least: Mean gain over the initial ranker's order. Below 0 allows a loss.
        change_at_least: Difference to the last blessed model on the same lists, where there is one. Slightly
            below 0 allows for noise.
        slice_ndcg_at_least: Mean in every user group of the slices; None sets no bound there.
        slice_change_at_least: Difference to the last blessed model in every user group of the slices; None
            sets no bound there. Small groups change by chance, so leave room below 0.
    """

    ndcg_at_least: float = 0.0
    gain_at_least: float = 0.0
    change_at_least: float = 0.0
    slice_ndcg_at_least: float | None = None
    slice_change_at_least: float | None = None
