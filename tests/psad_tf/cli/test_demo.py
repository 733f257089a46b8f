"""The demo, from files in MovieLens' form to served lists, on a data set of a few made-up users."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from psad_tf.cli.demo_run import DemoConfig, run_demo
from psad_tf.config import DataConfig
from psad_tf.datasets import download
from tests import tiny

pytestmark = pytest.mark.slow

METRICS = {"ndcg@5", "ndcg@10", "map@5", "map@10", "mrr", "auc"}


def write_movielens(folder: pathlib.Path, users: int = 24, items: int = 90) -> None:
    """Everybody rates everything, in an order of their own."""
    rng = np.random.default_rng(0)
    ratings = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(users):
        for place, item in enumerate(rng.permutation(items)):
            liking = 3 + (user % 2 == item % 2) + rng.integers(-1, 2)
            ratings.append(f"{user}\t{item}\t{liking}\t{880_000_000 + 60 * place}")
    people = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    people += [f"{user}\t{20 + user}\tF\twriter\t85711" for user in range(users)]
    films = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    films += [
        f"{item}\tFilm {item}\t{1900 + item}\t{'Drama' if item % 2 else 'War'}" for item in range(items)
    ]
    for name, lines in (("inter", ratings), ("user", people), ("item", films)):
        (folder / f"ml-100k.{name}").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a demo, its report and what it printed last."""
    published = tmp_path_factory.mktemp("published")
    write_movielens(published)
    folder = tmp_path_factory.mktemp("the demo") / "demo"
    train = tiny.smallest(slots=6, data=DataConfig(batch_size=16), epochs=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(download, "fetch", lambda data, cache: published)  # in place of the download
        report = run_demo(DemoConfig(str(folder), train=train, seeds=2, overlap_stride=10))
    return folder, report


def test_the_report_on_disk_has_every_promised_number(made):
    folder, returned = made
    report = json.loads((folder / "report.json").read_text())
    assert report == json.loads(json.dumps(returned))
    assert report["data"]["lists"] == {"train": 24, "valid": 24, "test": 24}
    assert report["data"]["overlapping_training_lists"] > 0
    for model in ("initial", "teacher", "student"):
        assert set(report["metrics"][model]) == METRICS
        assert all(0.0 <= value <= 1.0 for value in report["metrics"][model].values())
    assert report["serving"]["requests"] == 24
    assert report["serving"]["max_abs_diff"] <= 1e-5 * report["serving"]["max_abs_score"]
    assert 0.0 < report["serving"]["p50_ms"] <= report["serving"]["p99_ms"]
    assert 0 < report["export"]["parameters_exported"] < report["export"]["parameters_full"]
    assert report["export"]["contains_teacher"] is False
    steps = {"fetch-data", "build-lists", "preprocess", "train", "evaluate", "export", "serve"}
    assert set(report["seconds"]) == steps | {"total"}
    assert report["seconds"]["total"] == pytest.approx(
        sum(report["seconds"][step] for step in steps), abs=0.1
    )


def test_the_spread_is_over_the_seeds(made):
    _, report = made
    spread = report["seeds"]
    assert spread["count"] == 2
    assert spread["initial"]["ndcg@10"]["std"] == 0.0
    student = spread["student"]["ndcg@10"]
    assert student["values"][0] == report["metrics"]["student"]["ndcg@10"]
    assert student["mean"] == pytest.approx(np.mean(student["values"]))
    assert student["std"] == pytest.approx(np.std(student["values"], ddof=1))


def test_everything_lies_where_the_summary_says(made):
    folder, _ = made
    for name in ("raw/features.json", "lists/manifest.json", "runs/seed-1/metrics.json", "runs/seed-2/logs"):
        assert (folder / name).exists()
    assert (folder / "serving/psad/1/saved_model.pb").is_file()
    assert (folder / "serving/psad/1/assets.extra/tf_serving_warmup_requests").is_file()


def test_the_summary_shows_three_users_before_and_after_with_titles(made, capsys):
    from psad_tf.cli.demo_run import _print_summary

    folder, report = made
    rankings = {}
    with open(folder / "raw" / "impressions.jsonl", encoding="utf-8") as file:
        for impression in map(json.loads, file):
            shown = [candidate["item_id"] for candidate in impression["candidates"]]
            rankings[impression["request_id"]] = shown[::-1]
    _print_summary(report, rankings, str(folder / "raw"), str(folder), "serving/psad/1")
    shown = capsys.readouterr().out
    assert shown.count("liked among the first five") == 3
    assert shown.count("Film ") == 3 * 5 * 2
    for model in ("initial", "teacher", "student"):
        assert f"{report['seeds'][model]['ndcg@10']['mean']:.4f}" in shown
