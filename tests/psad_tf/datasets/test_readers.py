"""The readers of published formats, on small files in those formats."""

from __future__ import annotations

import gzip
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from psad_tf.data.records import Impression, check_attributes, check_impression, check_interaction
from psad_tf.datasets import download
from psad_tf.datasets.avito import read_avito
from psad_tf.datasets.kuairand import DateSplits, read_kuairand
from psad_tf.datasets.librerank import read_librerank
from psad_tf.datasets.open_bandit import read_open_bandit
from psad_tf.datasets.raw_data import RawData, write_raw_data
from psad_tf.errors import InputError


def _write(path: pathlib.Path, rows: list[Mapping[str, Any]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [delimiter.join(rows[0])]
    lines += [delimiter.join(str(value) for value in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _checked(data: RawData) -> tuple[list[Impression], list, list, list]:
    """All records of a reader, every one held against the schema, every declared feature found."""
    impressions, interactions = list(data.impressions), list(data.interactions)
    users, items = list(data.users), list(data.items)
    for impression in impressions:
        check_impression(impression.to_dict())
    for interaction in interactions:
        check_interaction(interaction.to_dict())
    for key, records in (("user_id", users), ("item_id", items)):
        for record in records:
            check_attributes(record, key)
        assert len({record[key] for record in records}) == len(records)
    known_context = {"user_id", "request_hour", *impressions[0].context}.union(*users)
    known_candidate = {"item_id", "initial_score"}.union(
        *items, *(candidate.features for candidate in impressions[0].candidates)
    )
    declaration = data.declaration
    context = (*declaration.context_categorical, *declaration.context_dense)
    candidate = (*declaration.candidate_categorical, *declaration.candidate_dense)
    assert {feature.name for feature in context} <= known_context
    assert {feature.name for feature in candidate} <= known_candidate
    known_history = {"item_id", "age_seconds"}.union(
        *items, *(interaction.feedback for interaction in interactions)
    )
    history = declaration.history
    if interactions:
        assert {feature.name for feature in (*history.categorical, *history.dense)} <= known_history
    return impressions, interactions, users, items


def _bandit_row(second: int, item: int, click: int, propensity: float, user: str = "aa") -> dict[str, Any]:
    return {
        "": 0,
        "timestamp": f"2019-11-24 00:{second // 60:02d}:{second % 60:02d}.5+00:00",
        "item_id": item,
        "position": 1 + item % 3,
        "click": click,
        "propensity_score": propensity,
        **{f"user_feature_{index}": user * 8 for index in range(4)},
        **{f"user-item_affinity_{index}": 0.5 * index for index in range(3)},
    }


@pytest.fixture
def bandit(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "bts" / "men"
    rows = [
        _bandit_row(0, 0, 0, 0.1),
        _bandit_row(20, 1, 1, 0.7),
        _bandit_row(25, 2, 0, 0.3, user="bb"),
        _bandit_row(30, 0, 1, 0.1),
        _bandit_row(200, 2, 0, 0.2),
    ]
    _write(folder / "men.csv", rows)
    items = [
        {"": index, "item_id": index, "item_feature_0": -0.5, **{f"item_feature_{k}": "h" for k in (1, 2, 3)}}
        for index in range(3)
    ]
    _write(folder / "item_context.csv", items)
    return tmp_path


def test_open_bandit_lists_are_sessions_in_the_order_of_propensity(bandit: pathlib.Path) -> None:
    impressions, clicks, users, items = _checked(read_open_bandit(bandit, gap_seconds=60))
    assert len(impressions) == 1  # the others have one impression only
    shown = [(each.item_id, each.initial_score, each.feedback["click"]) for each in impressions[0].candidates]
    assert shown == [("men-1", 0.7, 1.0), ("men-0", 0.1, 1.0)]  # the repeated item keeps its click
    assert impressions[0].candidates[0].features == {"page_slot": "2", "user_item_affinity": 0.5}
    assert [each.position for each in impressions[0].candidates] == [1, 0]  # as they were shown, by time
    assert {click.item_id for click in clicks} == {"men-0", "men-1"}
    assert len(users) == 2 and len(items) == 3


def test_a_clicked_item_does_not_feed_its_own_list(bandit: pathlib.Path) -> None:
    impressions, clicks, *_ = _checked(read_open_bandit(bandit, gap_seconds=60))
    assert min(click.time for click in clicks) >= impressions[0].time


def test_a_time_without_a_zone_is_utc(bandit: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [each.time for each in read_open_bandit(bandit).impressions]
    path = bandit / "bts" / "men" / "men.csv"
    path.write_text(path.read_text().replace("+00:00", ""))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert [each.time for each in read_open_bandit(bandit).impressions] == expected
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("gap", [-1.0, float("nan")])
def test_a_gap_that_is_no_length_of_time_is_an_error(bandit: pathlib.Path, gap: float) -> None:
    with pytest.raises(InputError, match="gap_seconds: must be 0 or more"):
        read_open_bandit(bandit, gap_seconds=gap)


def test_open_bandit_without_a_campaign_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="no campaign here"):
        read_open_bandit(tmp_path)


def test_the_real_open_bandit_sample_is_read() -> None:
    try:
        folder = download.fetch(download.OPEN_BANDIT_SAMPLE)
    except InputError as error:
        if "package index" not in str(error):
            raise
        pytest.skip("neither a package index nor a cache")
    impressions, clicks, users, items = _checked(read_open_bandit(folder))
    assert (len(impressions), len(clicks), len(users), len(items)) == (4178, 78, 309, 160)


@pytest.fixture
def kuairand(tmp_path: pathlib.Path) -> pathlib.Path:
    def event(user: int, video: int, second: float, tab: int = 1, **feedback: int) -> dict[str, Any]:
        names = "is_click is_like is_follow is_comment is_forward is_hate long_view play_time_ms".split()
        return {
            "user_id": user,
            "video_id": video,
            "date": 20220408,
            "hourmin": 400,
            "time_ms": 1649350000000 + int(second * 1000),
            **{name: feedback.get(name, 0) for name in names},
            "duration_ms": 9000,
            "is_rand": 0,
            "tab": tab,
        }

    first = [event(7, 100 + index, 10 * index + 0.25, is_click=index % 2) for index in range(6)]
    first += [event(7, 300 + index, 10 * index, tab=2, long_view=1) for index in range(5)]
    second = [event(7, 200 + index, 5000 - index, is_hate=1) for index in range(25)]
    second += [event(8, 100 + index, index) for index in range(4)]
    _write(tmp_path / "log_standard_4_08_to_4_21_pure.csv", first)
    _write(tmp_path / "log_standard_4_22_to_5_08_pure.csv", second)
    ranges = "user_active_degree follow_user_num_range fans_user_num_range friend_user_num_range".split()
    users = [
        {
            "user_id": user,
            **{name: "0" for name in (*ranges, "register_days_range")},
            **{name: 3 for name in ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")},
        }
        for user in (7, 8)
    ]
    _write(tmp_path / "user_features_pure.csv", users)
    videos = [
        {
            "video_id": video,
            "author_id": 4,
            "video_type": "NORMAL",
            "upload_type": "Web",
            "video_duration": 9000.0 if video % 2 else "",
            "music_type": 9,
            "tag": '"12,65"',
        }
        for video in (*range(100, 106), *range(200, 225), *range(300, 305))
    ]
    _write(tmp_path / "video_features_basic_pure.csv", videos)
    return tmp_path


def test_kuairand_lists_are_runs_in_one_tab_in_the_order_shown(kuairand: pathlib.Path) -> None:
    impressions, interactions, users, items = _checked(read_kuairand(kuairand))
    shown = [(each.context["tab"], [c.item_id for c in each.candidates]) for each in impressions]
    assert shown == [
        ("1", [str(video) for video in range(100, 106)]),
        ("1", [str(video) for video in range(224, 204, -1)]),  # cut after 20
        ("1", [str(video) for video in range(204, 199, -1)]),
        ("2", [str(video) for video in range(300, 305)]),
    ]
    assert [each.position for each in impressions[0].candidates] == list(range(6))
    assert impressions[0].time == 1649350000
    assert impressions[1].candidates[0].feedback["not_hated"] == 0
    assert items[1]["tag"] == ["12", "65"] and "video_duration" not in items[0]
    assert sorted({each.item_id for each in interactions}) == [
        "101",
        "103",
        "105",
        *map(str, range(300, 305)),
    ]
    assert len(users) == 2


def test_kuairands_files_may_be_compressed_and_histories_begin_with_the_history_file(kuairand) -> None:
    plain = list(read_kuairand(kuairand).interactions)
    for path in list(kuairand.glob("*.csv")):
        with gzip.open(f"{path}.gz", "wb") as file:
            file.write(path.read_bytes())
        path.unlink()
    last = 1649340000
    row = {"user_id": 8, "last_time_ms": 1000 * last, "watch_seq": "201 202", "long_watch_seq": "202"}
    _write(kuairand / "user_history_pure.csv", [row])
    _, interactions, _, _ = _checked(read_kuairand(kuairand))
    assert interactions[2:] == plain
    earlier = [(each.user_id, each.item_id, each.time, each.feedback) for each in interactions[:2]]
    assert [each[:3] for each in earlier] == [("8", "202", last), ("8", "201", last - 1)]
    assert [each[3]["long_view"] for each in earlier] == [1.0, 0.0]


@pytest.mark.slow
def test_kuairands_lists_are_split_by_date_in_the_order_of_a_model_of_the_days_before(kuairand) -> None:
    log = next(kuairand.glob("log_standard_4_08*"))
    lines = log.read_text().splitlines()
    later = [line.replace("20220408", "20220410") for line in lines[1:]]
    (kuairand / "log_standard_4_22_more.csv").write_text("\n".join([lines[0], *later]) + "\n")
    dates = DateSplits("20220409", "20220410", "20220411")
    impressions, _, _, _ = _checked(read_kuairand(kuairand, dates=dates))
    assert [each.split for each in impressions] == ["valid"] * 2
    for impression in impressions:
        scores = [candidate.initial_score for candidate in impression.candidates]
        assert scores == sorted(scores, reverse=True)
        assert sorted(candidate.position for candidate in impression.candidates) == list(range(len(scores)))


@pytest.mark.parametrize("dates", [("20220409", "20220409", "20220411"), ("9", "10", "11"), ("c", "b", "a")])
def test_split_dates_that_cannot_be_meant_are_refused(dates) -> None:
    with pytest.raises(InputError, match="three rising dates"):
        DateSplits(*dates)


def test_kuairand_without_its_logs_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"no log_standard_\*\.csv here"):
        read_kuairand(tmp_path)


@pytest.fixture
def avito(tmp_path: pathlib.Path) -> pathlib.Path:
    searches = [
        {
            "SearchID": search,
            "SearchDate": f"2015-05-01 00:00:{search:02d}.0",
            "IPID": 1,
            "UserID": 10 + search % 2,
            "IsUserLoggedOn": 0,
            "SearchQuery": 'диван "угловой',
            "LocationID": 5,
            "CategoryID": 22,
            "SearchParams": "{83:'Обувь'}",
        }
        for search in range(1, 6)
    ]
    _write(tmp_path / "SearchInfo.tsv", searches, "\t")
    stream = []
    for search in range(1, 5):
        for position in (7, 1, 2):
            regular = position == 2
            stream.append(
                {
                    "SearchID": search,
                    "AdID": 100 * search + position,
                    "Position": position,
                    "ObjectType": 1 if regular else 3,
                    "HistCTR": "" if regular else 0.01 * position,
                    "IsClick": "" if regular else int(position == 7),
                }
            )
    stream = [row for row in stream if (row["SearchID"], row["Position"]) != (4, 1)]
    _write(tmp_path / "trainSearchStream.tsv", stream, "\t")
    ads = [
        {
            "AdID": 100 * search + position,
            "LocationID": "",
            "CategoryID": 22,
            "Params": "",
            "Price": "" if position == 1 else 1500.0,
            "Title": 'Диван "люкс"',
            "IsContext": 1,
        }
        for search in range(1, 5)
        for position in (1, 2, 7)
    ]
    _write(tmp_path / "AdsInfo.tsv", ads, "\t")
    agents = ("UserAgentID", "UserAgentOSID", "UserDeviceID", "UserAgentFamilyID")
    _write(
        tmp_path / "UserInfo.tsv", [{"UserID": user, **dict.fromkeys(agents, 3)} for user in (10, 11)], "\t"
    )
    visits = [{"UserID": 10, "IPID": 1, "AdID": 102, "ViewDate": "2015-04-30 12:00:00.0"}]
    _write(tmp_path / "VisitsStream.tsv", visits, "\t")
    return tmp_path


@pytest.mark.parametrize("partitions", [1, 3])
def test_avito_lists_are_the_contextual_ads_of_a_search(avito: pathlib.Path, partitions: int) -> None:
    impressions, interactions, users, items = _checked(read_avito(avito, partitions))
    by_id = {each.request_id: each for each in impressions}
    assert sorted(by_id) == ["1", "2", "3"]  # search 4 shows one contextual ad, search 5 none
    assert [(c.item_id, c.initial_score) for c in by_id["2"].candidates] == [("201", -1.0), ("207", -7.0)]
    assert [each.position for each in by_id["2"].candidates] == [0, 1]
    assert by_id["2"].candidates[1].features == {"hist_ctr": 0.07}
    assert by_id["2"].user_id == "10" and by_id["2"].time == 1430438402
    assert by_id["2"].context["query_words"] == 2
    clicks = sorted(each.item_id for each in interactions if "click" in each.feedback)
    assert clicks == ["107", "207", "307", "407"]
    assert [each.item_id for each in interactions if "visit" in each.feedback] == ["102"]
    assert "price" not in items[0] and items[1]["price"] == 1500
    assert len(users) == 2


def test_avito_names_a_missing_file_and_a_wrong_time(avito: pathlib.Path) -> None:
    text = (avito / "SearchInfo.tsv").read_text(encoding="utf-8")
    (avito / "SearchInfo.tsv").write_text(
        text.replace("2015-05-01 00:00:03.0", "yesterday"), encoding="utf-8"
    )
    with pytest.raises(InputError, match="SearchDate: 'yesterday' is not a time"):
        list(read_avito(avito).impressions)
    (avito / "AdsInfo.tsv").unlink()
    with pytest.raises(InputError, match=r"AdsInfo\.tsv: no such file"):
        read_avito(avito)


def test_avito_names_the_line_of_the_published_file(avito: pathlib.Path) -> None:
    path = avito / "trainSearchStream.tsv"
    path.write_text(path.read_text().replace("\t7\t3\t", "\tseven\t3\t", 1))
    with pytest.raises(InputError, match=rf"^{path}:2: Position: 'seven' is not a number$"):
        list(read_avito(avito).impressions)


def test_avito_ads_of_a_search_that_is_missing_are_an_error(avito: pathlib.Path) -> None:
    path = avito / "SearchInfo.tsv"
    path.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:3]), encoding="utf-8")
    with pytest.raises(InputError, match=r"SearchInfo\.tsv: no search '[34]', whose ads"):
        list(read_avito(avito).impressions)


Lists = list[tuple[int, list[int], list[list[int]], list[list[float]], list[int]]]


def _librerank_lists(first_user: int, count: int) -> Lists:
    return [
        (
            first_user + index % 2,
            [40 + index % 2, 50],
            [[60 + item, 70 + item % 2, 80] for item in range(3)],
            [[0.5 * item] for item in range(3)],
            [0, index % 2, 1],
        )
        for index in range(count)
    ]


@pytest.fixture
def librerank(tmp_path: pathlib.Path) -> pathlib.Path:
    import pickle

    for split, count in (("train", 4), ("valid", 2), ("test", 2)):
        lines = ["\t".join(map(str, each)) for each in _librerank_lists(1, count)]
        (tmp_path / f"data.{split}").write_text("\n".join(lines) + "\n")
    for split, count in (("train", 20), ("test", 2)):
        lists = _librerank_lists(1, count)
        columns = [list(column) for column in zip(*lists, strict=True)]
        sparse = [[np.array(row, np.float64) for row in rows] for rows in columns[2]]
        lengths = [np.int64(len(labels)) for labels in columns[4]]
        positions = [[2, 0, 1]] * count
        content = [columns[0], columns[1], sparse, columns[3], columns[4], positions, lengths]
        (tmp_path / f"DNN.rankings.{split}").write_bytes(
            pickle.dumps(content, protocol=2 if count == 2 else 4)
        )
    return tmp_path


def test_librerank_text_files_give_lists_with_users_and_their_clicks(librerank: pathlib.Path) -> None:
    impressions, interactions, users, items = _checked(read_librerank(librerank))
    assert [each.split for each in impressions] == ["train"] * 4 + ["valid"] * 2 + ["test"] * 2
    assert [each.time for each in impressions] == sorted({each.time for each in impressions})
    second = impressions[1]
    assert second.user_id == "u2" and second.context == {"profile_1": "41", "profile_2": "50"}
    assert [(c.item_id, c.feedback["click"]) for c in second.candidates] == [("60", 0), ("61", 1), ("62", 1)]
    assert second.candidates[2].features == {
        "item_feature_1": "70",
        "item_feature_2": "80",
        "item_dense_1": 1.0,
    }
    assert len(interactions) == 4 + 8
    assert [user["user_id"] for user in users] == ["u1", "u2"] and len(items) == 3


def test_librerank_rankings_are_read_out_of_pickles_of_any_protocol(librerank: pathlib.Path) -> None:
    impressions, interactions, *_ = _checked(read_librerank(librerank, ranker="DNN"))
    splits = [each.split for each in impressions]
    assert [splits.count(name) for name in ("train", "valid", "test")] == [18, 2, 2]
    assert [c.item_id for c in impressions[0].candidates] == ["60", "61", "62"]
    assert [c.position for c in impressions[0].candidates] == [2, 0, 1]
    assert len({each.user_id for each in impressions}) == 22 and interactions == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\t[1]\t[[1]]\t[[0.5]]", r"data\.train:5: 4 tab-separated fields"),
        ("1\t[1]\t[[1]]\t[[0.5]]\t__import__('os')", r"data\.train:5: a field is not a Python literal"),
        ("1\t[1]\t[[1]]\t[[0.5]]\t[0, 1]", r"data\.train:5: 1 items, 1 dense rows, 2 labels"),
        ("1\t[1]\t[[]]\t[[0.5]]\t[0]", r"data\.train:5: an item has no sparse features"),
        ("1\t[1]\t[[1]]\t[['x']]\t[0]", r"data\.train:5: a label, position or dense feature is not"),
        ("1\t[1]\t[1]\t[[0.5]]\t[0]", r"data\.train:5: an item's features are not a list"),
        ("1\t7\t[[1]]\t[[0.5]]\t[0]", r"data\.train:5: profile: expected a list"),
    ],
)
def test_a_wrong_librerank_line_is_named(librerank: pathlib.Path, line: str, message: str) -> None:
    with open(librerank / "data.train", "a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=message):
        list(read_librerank(librerank).impressions)


def test_a_written_folder_holds_what_was_read(bandit: pathlib.Path, tmp_path: pathlib.Path) -> None:
    data = read_open_bandit(bandit, gap_seconds=60)
    counts = write_raw_data(data, tmp_path / "raw")
    assert counts == {"impressions": 1, "interactions": 2, "users": 2, "items": 3}
    with open(tmp_path / "raw" / "impressions.jsonl", encoding="utf-8") as file:
        assert [Impression.from_dict(json.loads(line)) for line in file] == list(data.impressions)


def test_a_data_set_without_lists_leaves_no_folder(bandit: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="gives no list"):
        write_raw_data(read_open_bandit(bandit, gap_seconds=1), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
