"""Common exports of logs in the form of the raw record, where their meaning is plain.

| in the export                                     | becomes                                      |
|---------------------------------------------------|----------------------------------------------|
| an id that is a whole number, `17` or `17.0`      | its text, `"17"`                             |
| a time `1700000000.0`                             | whole seconds                                |
| a time `"2024-01-05T10:00:00Z"` or `"...+02:00"`  | seconds since 1970 UTC, fractions cut off    |
| the same without a zone                           | in the zone that an option names, or refused |
| feedback `true`, `false`                          | 1 and 0                                      |
| a declared feature `true`, `false`                | 1 and 0, or `"true"` and `"false"`           |
| a key that nothing asks for, of whatever type     | left out                                     |

Records in the raw form never come here: only what a check refused does, before it is refused for good.
"""

from __future__ import annotations

import datetime
import zoneinfo
from collections.abc import Mapping
from typing import Any

from psad_tf.data.records import IMPRESSIONS, INTERACTIONS, ITEMS, KINDS, USERS, RecordError
from psad_tf.features import FeatureDeclaration

_ROWS = "rows"
_KEYS = {
    IMPRESSIONS: frozenset(
        ("request_id", "user_id", "time", "context", "candidates", "split", "feedback", "other_users")
    ),
    _ROWS: frozenset(
        (
            *("request_id", "user_id", "time", "item_id", "initial_score", "position", "split"),
            *("feedback", "features", "context"),
        )
    ),
    INTERACTIONS: frozenset(("user_id", "item_id", "time", "feedback")),
}
_CANDIDATE = frozenset(("item_id", "initial_score", "position", "feedback", "features"))
_IDS = ("request_id", "user_id", "item_id")


class CommonForms:
    """Brings records of common exports into the raw form.

    Args:
        declaration: The features; every other attribute is left out.
        time_zone: Of times without one, as `Europe/Berlin`; "" refuses them.
    """

    def __init__(self, declaration: FeatureDeclaration, time_zone: str = "") -> None:
        self._zone = zoneinfo.ZoneInfo(time_zone) if time_zone else None
        self._widths = declaration.raw_widths

    def __call__(self, data: Any, kind: str) -> Any:
        """The record in the raw form, as far as its meaning is plain; `data` itself is not changed.

        Args:
            data: The record.
            kind: `impressions`, `rows`, `interactions`, `users` or `items`.

        Raises:
            RecordError: A time without a zone, where no option names one.
        """
        if not isinstance(data, dict) or kind not in (*KINDS, _ROWS):
            return data
        if kind in (USERS, ITEMS):
            key, part = ("user_id", "context") if kind == USERS else ("item_id", "features")
            return {**self._attributes(data, part), **_with_ids({key: data.get(key)})}
        shaped = {name: value for name, value in data.items() if name in _KEYS[kind]}
        shaped = _with_ids(self._with_parts(shaped))
        if "time" in shaped:
            shaped["time"] = self._time(shaped["time"])
        if kind == IMPRESSIONS and isinstance(shaped.get("candidates"), list):
            shaped["candidates"] = [
                _with_ids(self._with_parts({k: v for k, v in each.items() if k in _CANDIDATE}))
                if isinstance(each, dict)
                else each
                for each in shaped["candidates"]
            ]
            if isinstance(data.get("feedback"), dict):  # by item
                shaped["feedback"] = {item: _feedback(each) for item, each in data["feedback"].items()}
        return shaped

    def _with_parts(self, data: dict[str, Any]) -> dict[str, Any]:
        shaped = dict(data)
        if "feedback" in shaped:
            shaped["feedback"] = _feedback(shaped["feedback"])
        for part in self._widths:
            if isinstance(shaped.get(part), dict):
                shaped[part] = self._attributes(shaped[part], part)
        return shaped

    def _attributes(self, values: Mapping[str, Any], part: str) -> dict[str, Any]:
        widths = self._widths[part]
        return {name: _plain(values[name], dense=not widths[name]) for name in values if name in widths}

    def _time(self, time: Any) -> Any:
        if isinstance(time, float) and time.is_integer():
            return int(time)
        if not isinstance(time, str):
            return time
        try:
            moment = datetime.datetime.fromisoformat(time.strip())
        except ValueError:
            return time
        if moment.tzinfo is None:
            if self._zone is None:
                raise RecordError(
                    "time_without_zone",
                    f"time: {time[:40]!r} names no time zone: say which with --time_zone (UTC for instance)",
                )
            moment = moment.replace(tzinfo=self._zone)
        return int(moment.timestamp() // 1)


def _with_ids(data: dict[str, Any]) -> dict[str, Any]:
    for key in _IDS:
        value = data.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            data[key] = str(value)
    return data


def _feedback(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {name: float(value) if isinstance(value, bool) else value for name, value in values.items()}


def _plain(value: Any, dense: bool) -> Any:
    if isinstance(value, bool):
        return float(value) if dense else str(value).lower()
    return value
