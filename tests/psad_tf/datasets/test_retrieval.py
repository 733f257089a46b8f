"""The upstream stage learns who likes what, and does so the same way every time."""

from __future__ import annotations

import numpy as np
import pytest

from psad_tf.datasets.retrieval import Ratings, RetrievalConfig, TokenTable, train_retrieval
from psad_tf.errors import InputError

pytestmark = pytest.mark.slow

USERS = {f"u{index}": {"group": "even" if index % 2 == 0 else "odd"} for index in range(30)}
ITEMS = {f"i{index}": {"genres": ["calm"] if index % 2 == 0 else ["loud", "fast"]} for index in range(20)}
CONFIG = RetrievalConfig(dimension=4, batch_size=64, max_epochs=30, learning_rate=0.03, embedding_l2=0.1)


def _rating(user: int, item: int) -> float:
    """Even users like even items; items 0 to 9 are worth half a point more."""
    return 2.0 + 2.0 * (user % 2 == item % 2) + 0.5 * (item < 10)


def _ratings() -> Ratings:
    pairs = [(user, item) for user in range(28) for item in range(18) if (user * 7 + item) % 3]
    return Ratings(
        [f"u{user}" for user, _ in pairs],
        [f"i{item}" for _, item in pairs],
        [_rating(*pair) for pair in pairs],
    )


@pytest.fixture(scope="module")
def trained():
    return train_retrieval(_ratings(), USERS, ITEMS, ("group",), ("genres",), CONFIG)


def _grid(users: range, items: range) -> tuple[list[str], list[str], np.ndarray]:
    pairs = [(user, item) for user in users for item in items]
    truth = np.array([_rating(*pair) for pair in pairs])
    return [f"u{user}" for user, _ in pairs], [f"i{item}" for _, item in pairs], truth


def test_unseen_pairs_are_predicted(trained) -> None:
    user_ids, item_ids, truth = _grid(range(28), range(18))
    predicted = trained.score(user_ids, item_ids).rating
    seen = {*zip(_ratings().user_ids, _ratings().item_ids, strict=True)}
    unseen = np.array([pair not in seen for pair in zip(user_ids, item_ids, strict=True)])
    assert np.abs(predicted - truth)[unseen].mean() < 0.35


def test_attributes_carry_over_to_users_and_items_never_rated(trained) -> None:
    user_ids, item_ids, truth = _grid(range(28, 30), range(18, 20))
    predicted = trained.score(user_ids, item_ids).rating
    assert predicted[truth > 3].min() > predicted[truth < 3].max()


def test_the_retrieval_task_puts_liked_items_nearer(trained) -> None:
    user_ids, item_ids, truth = _grid(range(28), range(18))
    retrieval = trained.score(user_ids, item_ids).retrieval
    assert retrieval[truth >= 4].mean() > retrieval[truth < 4].mean() + 0.1


def test_an_unknown_user_or_item_gets_a_finite_score(trained) -> None:
    scores = trained.score(["nobody", "u1"], ["i1", "nothing"])
    assert np.isfinite(scores.rating).all() and np.isfinite(scores.retrieval).all()


def test_no_pairs_give_no_scores(trained) -> None:
    assert trained.score([], []).rating.shape == (0,)


def test_the_same_seed_gives_the_same_scores_bit_for_bit(trained) -> None:
    again = train_retrieval(_ratings(), USERS, ITEMS, ("group",), ("genres",), CONFIG)
    user_ids, item_ids, _ = _grid(range(30), range(20))
    first, second = trained.score(user_ids, item_ids), again.score(user_ids, item_ids)
    np.testing.assert_array_equal(first.rating, second.rating)
    np.testing.assert_array_equal(first.retrieval, second.retrieval)


def test_too_few_interactions_are_refused() -> None:
    with pytest.raises(InputError, match="at least 10"):
        train_retrieval(Ratings(["u1"], ["i1"], [3.0]), USERS, ITEMS)


def test_token_rows_hold_the_id_and_every_attribute_value() -> None:
    table = TokenTable(
        {"x": {"genres": ["a", "b"], "year": 1990.0}, "y": {"genres": ["b"]}}, ("genres", "year")
    )
    first, second = table.rows[table.find(["x", "y"])]
    assert (first > 0).sum() == 4 and (second > 0).sum() == 2
    assert set(first) & set(second) - {0} == {first[2]}  # the shared genre
    assert table.find(["unknown"]).tolist() == [0] and not table.rows[0].any()
