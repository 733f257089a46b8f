"""Checks that the values of declared features have the declared type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psad_tf.data.records import RecordError
from psad_tf.features import FeatureDeclaration


class DeclaredTypes:
    """The declared type of every feature, to check raw records against.

    A dense feature must be a number. A categorical one may be a string, a number or a list of strings.
    """

    def __init__(self, declaration: FeatureDeclaration) -> None:
        self._context = frozenset(feature.name for feature in declaration.context_dense)
        self._candidate = frozenset(feature.name for feature in declaration.candidate_dense)

    def check_impression(self, data: Mapping[str, Any]) -> None:
        """Raises `RecordError` where a value is not of its feature's type."""
        context = data.get("context")
        if context:
            _check(context, self._context, "context")
        if self._candidate:
            for candidate in data["candidates"]:
                features = candidate.get("features")
                if features and not self._candidate.isdisjoint(features):
                    _check(features, self._candidate, f"features of item {candidate['item_id']!r}")

    def check_row(self, data: Mapping[str, Any]) -> None:
        """The same for a row of a flat log."""
        _check(data.get("context") or {}, self._context, "context")
        _check(data.get("features") or {}, self._candidate, "features")

    def check_user(self, data: Mapping[str, Any]) -> None:
        """The same for a user's attributes."""
        _check(data, self._context, "user")

    def check_item(self, data: Mapping[str, Any]) -> None:
        """The same for an item's attributes."""
        _check(data, self._candidate, "item")


def _check(values: Mapping[str, Any], dense: frozenset[str], where: str) -> None:
    for name in dense:
        value = values.get(name)
        if isinstance(value, str | list):
            raise RecordError(
                "wrong_type", f"{where}: {name}: declared dense, but holds {str(value)[:40]!r}, not a number"
            )
