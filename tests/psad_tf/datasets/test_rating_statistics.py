"""Features as of a list's time: right numbers, and nothing from the list's own second or later."""

from __future__ import annotations

import pytest

from psad_tf.datasets.rating_statistics import ItemFacts, ListFeatures, RatedList, RatingEvent, as_of_features

ITEMS = {
    "a": ItemFacts(("Drama",), 1990),
    "b": ItemFacts(("Drama", "War")),
    "c": ItemFacts(("Comedy",), 1970),
}
TIME = 86_400 * 365 * 20  # in 1989


def _features(*events: tuple[RatingEvent, bool], user: str = "u") -> ListFeatures:
    return as_of_features([RatedList(user, TIME, ("a", "b", "c"))], events, ITEMS)[0]


def test_item_statistics_count_the_shared_ratings_of_everybody() -> None:
    features = _features(
        (RatingEvent("v", "a", 1, 5.0), True),
        (RatingEvent("w", "a", 2, 2.0), True),
        (RatingEvent("w", "b", 3, 3.0), False),
    )
    first, second, _ = features.candidates
    assert first["item_rating_count"] == 2
    # The shared mean is 3.5, with a prior weight of 5; half of the shared ratings are liked.
    assert first["item_mean_rating"] == pytest.approx((7 + 5 * 3.5) / 7)
    assert first["item_liked_share"] == pytest.approx((1 + 5 * 0.5) / 7)
    assert second["item_rating_count"] == 0
    assert second["item_mean_rating"] == pytest.approx(3.5)


def test_user_statistics_count_every_past_rating_of_the_user_alone() -> None:
    context = _features(
        (RatingEvent("u", "a", TIME - 86_400 * 2, 5.0), True),
        (RatingEvent("u", "b", TIME - 1, 3.0), False),
        (RatingEvent("v", "a", 1, 1.0), True),
    ).context
    assert context == {
        "user_rating_count": 2.0,
        "user_mean_rating": 4.0,
        "user_rating_deviation": 1.0,
        "user_days_active": 2.0,
    }


def test_genre_affinity_is_the_shrunk_deviation_from_the_users_mean() -> None:
    features = _features(
        (RatingEvent("u", "a", 1, 5.0), True),
        (RatingEvent("u", "c", 2, 2.0), True),
    )
    drama, drama_and_war, comedy = (each["genre_affinity"] for each in features.candidates)
    assert drama == pytest.approx((5 - 3.5) / (1 + 3))
    assert drama_and_war == pytest.approx(drama / 2)
    assert comedy == pytest.approx((2 - 3.5) / (1 + 3))
    assert [each["genre_count"] for each in features.candidates] == [1.0, 0.5, 1.0]


def test_item_age_is_counted_in_years_and_absent_where_unknown() -> None:
    candidates = _features().candidates
    assert candidates[0]["item_age_years"] == 1989 - 1990
    assert "item_age_years" not in candidates[1]


def test_neighbours_liked_together_lift_each_other() -> None:
    events = []
    for number in range(20):
        taste = 5.0 if number % 2 else 1.0
        events += [
            (RatingEvent(f"v{number}", "a", 10 + number, taste), True),
            (RatingEvent(f"v{number}", "b", 40 + number, taste), True),
            (RatingEvent(f"v{number}", "c", 70 + number, 6.0 - taste), True),
        ]
    events.append((RatingEvent("u", "a", 100, 5.0), True))
    _, alike, opposite = (each["neighbour_affinity"] for each in _features(*events).candidates)
    assert alike > 0.1 > -0.1 > opposite


@pytest.mark.parametrize("leak", ["a", "b", "c"])
@pytest.mark.parametrize("when", [TIME, TIME + 1])
@pytest.mark.parametrize("user", ["u", "v"])
def test_a_rating_of_the_same_second_or_later_changes_nothing(leak: str, when: int, user: str) -> None:
    past = [(RatingEvent("u", "a", 1, 5.0), True), (RatingEvent("v", "b", 2, 1.0), True)]
    planted = (RatingEvent(user, leak, when, 5.0), True)
    assert _features(*past, planted) == _features(*past)


def test_a_user_without_past_ratings_has_no_mean() -> None:
    assert _features((RatingEvent("v", "a", 1, 5.0), True)).context == {"user_rating_count": 0.0}


def test_answers_stand_in_the_order_of_the_lists() -> None:
    lists = [RatedList("u", 30, ("a",)), RatedList("u", 10, ("a",)), RatedList("u", 20, ("a",))]
    events = [(RatingEvent("u", "a", time, 4.0), True) for time in (5, 15, 25)]
    counts = [each.context["user_rating_count"] for each in as_of_features(lists, events, ITEMS)]
    assert counts == [3.0, 1.0, 2.0]
