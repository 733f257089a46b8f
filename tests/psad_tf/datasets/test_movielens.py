"""MovieLens-100K: the published form is read, the protocol's lists come out, mistakes are named."""

from __future__ import annotations

import collections
import pathlib

import pytest

from psad_tf.data.records import check_attributes, check_impression, check_interaction
from psad_tf.datasets import download, movielens
from psad_tf.datasets.initial_order import InitialOrderMeter
from psad_tf.datasets.retrieval import RetrievalConfig
from psad_tf.datasets.windows import WindowRules, cut_windows
from psad_tf.errors import InputError

pytestmark = pytest.mark.slow

QUICK = RetrievalConfig(dimension=2, max_epochs=1, batch_size=64)


def _write(folder: pathlib.Path, users: int = 3, ratings: int = 90) -> pathlib.Path:
    """Every user rates the same items, three in a second, in the form of the published files."""
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(users):
        for index in reversed(range(ratings)):
            lines.append(f"{user}\t{index}\t{1 + (index * 7 + user) % 5}\t{880000000 + index // 3}")
    (folder / "ml-100k.inter").write_text("\n".join(lines) + "\n")
    lines = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    lines += [f"{user}\t{24 + user}\tM\twriter\t8571{user}" for user in range(users)]
    (folder / "ml-100k.user").write_text("\n".join(lines) + "\n")
    lines = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    lines += [f"{item}\tFilm «{item}»\t19{10 + item}\tDrama War" for item in range(ratings - 1)]
    lines.append(f"{ratings - 1}\tunkonwn\tunkonwn\tunknown")
    (folder / "ml-100k.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    data = movielens.read_movielens(_write(tmp_path_factory.mktemp("ml")))
    built = movielens.build_raw_data(data, WindowRules(overlap_stride=5), QUICK)
    return {name: list(getattr(built, name)) for name in ("impressions", "interactions", "users", "items")}


def test_every_record_keeps_to_the_schema(raw: dict[str, list]) -> None:
    for impression in raw["impressions"]:
        check_impression(impression.to_dict())
    for interaction in raw["interactions"]:
        check_interaction(interaction.to_dict())
    for user in raw["users"]:
        check_attributes(user, "user_id")
    for item in raw["items"]:
        check_attributes(item, "item_id")
    assert len(raw["interactions"]) == 270


def test_every_declared_feature_is_found_somewhere(raw: dict[str, list]) -> None:
    declaration = movielens.DECLARATION
    context = {"user_id", *raw["impressions"][-1].context, *raw["users"][0]}
    candidate = {"item_id", *raw["impressions"][-1].candidates[0].features, *raw["items"][0]}
    assert {each.name for each in (*declaration.context_categorical, *declaration.context_dense)} <= context
    named = (*declaration.candidate_categorical, *declaration.candidate_dense)
    assert {each.name for each in named} <= candidate


def test_candidates_stand_in_the_order_of_the_upstream_score(raw: dict[str, list]) -> None:
    for impression in raw["impressions"]:
        scores = [candidate.initial_score for candidate in impression.candidates]
        assert scores == sorted(scores, reverse=True)


def test_a_list_begins_at_its_first_moment_and_overlapping_ones_say_so(raw: dict[str, list]) -> None:
    plain = [each for each in raw["impressions"] if "overlapping" not in each.request_id]
    assert [each.split for each in plain if each.user_id == "0"] == ["train", "valid", "test"]
    assert [each.time - 880000000 for each in plain if each.user_id == "0"] == [30 // 3, 50 // 3, 70 // 3]
    overlapping = [each for each in raw["impressions"] if "overlapping" in each.request_id]
    # Of 90 ratings 27 are upstream's and 3 are left over: one more window fits before the held-out ones.
    assert [each.request_id for each in overlapping] == [f"ml-{user}-27-47-overlapping" for user in range(3)]
    assert {each.split for each in overlapping} == {"train"}


def test_ratings_of_one_second_keep_the_files_order(tmp_path: pathlib.Path) -> None:
    events = movielens.read_movielens(_write(tmp_path)).ratings["0"]
    assert [event.item_id for event in events[:6]] == ["2", "1", "0", "5", "4", "3"]


def test_text_in_place_of_a_year_is_an_unknown_year(tmp_path: pathlib.Path) -> None:
    items = movielens.read_movielens(_write(tmp_path)).items
    assert "release_year" not in items["89"]
    assert items["0"] == {
        "title": "Film «0»",
        "genres": ["Drama", "War"],
        "release_year": 1910,
        "decade": "1910s",
    }


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("ml-100k.inter", "1\t2\t3\n", r"ml-100k\.inter:272: 3 tab-separated fields, expected 4"),
        ("ml-100k.inter", "1\t2\tgood\t3\n", r"ml-100k\.inter:272: 'good' is not a number"),
        ("ml-100k.user", "9\told\tM\twriter\t1\n", r"ml-100k\.user:5: 'old' is not a number"),
        ("ml-100k.inter", "9\t0\t3\t1\n", r"user '9' has ratings but is not in .*ml-100k\.user"),
        ("ml-100k.inter", "0\t999\t3\t1\n", r"item '999' is rated but is not in .*ml-100k\.item"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: pathlib.Path, name: str, line: str, message: str) -> None:
    with open(_write(tmp_path) / name, "a", encoding="utf-8") as file:
        file.write(line)
    with pytest.raises(InputError, match=message):
        movielens.read_movielens(tmp_path)


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    (_write(tmp_path) / "ml-100k.item").unlink()
    with pytest.raises(InputError, match=r"ml-100k\.item: no such file"):
        movielens.read_movielens(tmp_path)


def test_the_published_files_give_the_protocols_lists() -> None:
    try:
        folder = download.fetch(download.MOVIELENS_100K)
    except InputError as error:
        if "package index" not in str(error):
            raise
        pytest.skip("neither a package index nor a cache")
    ratings = movielens.read_movielens(folder).ratings
    counts = collections.Counter(
        window.split for events in ratings.values() for window in cut_windows(len(events)).windows
    )
    assert counts == {"train": 2306, "valid": 535, "test": 719}
    assert sum(cut_windows(len(events)).upstream for events in ratings.values()) == 30_283


def test_the_meter_agrees_with_ndcg_by_hand(raw: dict[str, list]) -> None:
    import math

    label = movielens.DECLARATION.label
    meter = InitialOrderMeter(label)
    assert list(meter.watch(raw["impressions"])) == raw["impressions"]
    expected = []
    for impression in raw["impressions"]:
        if impression.split == "test":
            gains = [
                {4.0: 1, 5.0: 3}.get(candidate.feedback["rating"], 0) for candidate in impression.candidates
            ]

            def discounted(values: list[int]) -> float:
                return sum(value / math.log2(place + 2) for place, value in enumerate(values[:10]))

            expected.append(discounted(gains) / discounted(sorted(gains, reverse=True)))
    assert meter.results()["test"] == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    assert meter.lists == {"train": 6, "valid": 3, "test": 3}
