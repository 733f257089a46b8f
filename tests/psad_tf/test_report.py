"""The run report: whole, self-contained, and shown by a real browser where there is one."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

from psad_tf.errors import InputError
from psad_tf.report import line_chart, write_report

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run <1>"
    folder.mkdir()
    models = {name: dict.fromkeys(("ndcg@5", "ndcg@10", "map@5", "map@10", "mrr", "auc"), 0.5) for name in
              ("initial", "teacher", "student")}  # fmt: skip
    history = [
        {
            "epoch": epoch,
            "losses": {"teacher": 3.0 / epoch, "student_listwise": 2.0, "student_pointwise": 0.6,
                       "distillation": 0.3, "unlikelihood": 0.1, "distillation_weight": epoch / 3},
            "valid": models,
            "agreement": 0.1 * epoch,
            "seconds": 1.0,
        }
        for epoch in (1, 2, 3)
    ]  # fmt: skip
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "metrics.json").write_text(json.dumps({"best_epoch": 2, "epochs": 3, "valid": models}))
    (folder / "config.json").write_text("{}")
    return folder


def test_page_is_self_contained_and_every_chart_is_well_formed(run_dir):
    with open(write_report(run_dir), encoding="utf-8") as file:
        page = file.read()
    html.parser.HTMLParser().feed(page)
    assert "<script" not in page and not re.search(r"(src|href)=", page) and "http" not in page
    charts = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(charts) == 6
    for chart in charts:
        ElementTree.fromstring(chart)
    assert "run &lt;1&gt;" in page


def test_chart_draws_each_value_at_its_place():
    chart = ElementTree.fromstring(
        re.search(r"<svg.*</svg>", line_chart("t", [1, 2, 3], {"a": [0.0, 1.0, 0.0]}), re.S).group()
    )
    points = [tuple(map(float, p.split(","))) for p in chart.find("polyline").get("points").split()]
    assert points[0][1] == points[2][1] > points[1][1]
    assert points[0][0] < points[1][0] < points[2][0]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_page_without_errors(run_dir, tmp_path):
    path = write_report(run_dir, tmp_path / "report.html")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{path}"]
    done = subprocess.run([BROWSER, *options], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count("<polyline") == 13
    assert "CONSOLE" not in done.stderr


def test_a_folder_that_is_no_run_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.json: no such file"):
        write_report(tmp_path)
