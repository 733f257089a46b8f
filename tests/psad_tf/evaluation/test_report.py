"""The run report: whole, self-contained, and shown by a real browser.

The browser is Chromium or Chrome, found on PATH or named by PSAD_BROWSER. `.ci/run` installs it; where CI is
set, a missing browser fails the test, elsewhere it skips it.
"""

from __future__ import annotations

import dataclasses
import html.parser
import math
import os
import pathlib
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

from psad_tf.cli.main import main
from psad_tf.config import DataConfig
from psad_tf.errors import InputError
from psad_tf.evaluation.charts import COLOURS, chart_id, line_chart
from psad_tf.evaluation.report import write_report
from psad_tf.training.trainer import train
from tests import tiny

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SLOTS = 8


@pytest.fixture(scope="module")
def run_dir(lists_dir, tmp_path_factory) -> pathlib.Path:
    """A real run of three epochs."""
    config = tiny.smallest(slots=SLOTS, data=DataConfig(batch_size=32, list_sizes=(SLOTS,)), epochs=3)
    folder = tmp_path_factory.mktemp("report") / "run <1>"
    train(lists_dir, folder, dataclasses.replace(config, patience=0), verbose=False)
    return folder


@pytest.fixture(scope="module")
def page(run_dir, lists_dir, raw_dir) -> pathlib.Path:
    """Its report, by the command."""
    assert main(["report", str(run_dir), "--lists_dir", str(lists_dir)]) == 0
    return run_dir / "report.html"


def test_page_is_self_contained_and_every_chart_is_well_formed(page):
    text = page.read_text(encoding="utf-8")
    html.parser.HTMLParser().feed(text)
    assert "<script" not in text and not re.search(r"src=|@import", text)
    assert not re.search(r'href="(?!#)|url\((?!#)|http', re.sub(r'xmlns(:xlink)?="[^"]*"', "", text))
    identifiers = re.findall(r' id="(.*?)"', text)
    assert len(set(identifiers)) == len(identifiers)
    charts = re.findall(r"<figure>.*?</figure>", text, re.S)
    titles = [re.search("<figcaption>(.*?)</figcaption>", each).group(1) for each in charts]
    for title in ("Ranking losses", "Distillation weight", "Validation NDCG@10", "Agreement of teacher"):
        assert any(each.startswith(title) for each in titles), titles
    for chart in charts:
        ElementTree.fromstring(re.search(r"<svg.*</svg>", chart, re.S).group())
    assert "run &lt;1&gt;" in text and "nan" not in text.lower()


def test_lists_before_and_after_hold_the_same_candidates(page):
    tables = re.findall(r'<table class="lists">.*?</table>', page.read_text(encoding="utf-8"), re.S)
    assert len(tables) == 3
    for table in tables:
        rows = re.findall(r"<tr>(<td.*?)</tr>", table)
        columns = list(zip(*(re.findall(r"<td.*?>(.*?)</td>", row) for row in rows), strict=True))
        assert len(columns) == 3 and len(rows) == SLOTS
        assert sorted(columns[0]) == sorted(columns[1]) == sorted(columns[2])


def points_of(values: dict[str, list[float]]) -> dict[str, list[tuple[float, float]]]:
    """Where the chart of three epochs draws each series."""
    chart = ElementTree.fromstring(
        re.search(r"<svg.*</svg>", line_chart("t", [1, 2, 3], values), re.S).group()
    )
    lines = {name: chart.find(f".//*[@id='{chart_id('t', name)}']/{{*}}path") for name in values}
    return {
        name: []
        if line is None
        else [(float(x), float(y)) for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", line.get("d"))]
        for name, line in lines.items()
    }


def test_chart_draws_each_value_at_its_place():
    points = points_of({"a": [0.0, 1.0, 0.0]})["a"]
    assert points[0][1] == points[2][1] > points[1][1]
    assert points[0][0] < points[1][0] < points[2][0]


def test_chart_leaves_out_values_that_are_no_numbers():
    points = points_of({"a": [0.0, math.nan, 1.0], "b": [math.nan] * 3})
    assert {name: len(each) for name, each in points.items()} == {"a": 2, "b": 0}


@pytest.fixture(scope="module")
def browser() -> str:
    named = os.environ.get("PSAD_BROWSER")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        reason = (
            f"no browser: install Chromium (Debian: apt-get install chromium) or set PSAD_BROWSER ({named})"
        )
        (pytest.fail if named or os.environ.get("CI") else pytest.skip)(reason)
    return found


def browse(browser: str, page: pathlib.Path, profile: pathlib.Path, *options: str) -> tuple[str, str]:
    """Shows a page; gives what the browser prints and its log."""
    common = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    common += ["--disable-sync", "--disable-background-networking", "--disable-component-update"]
    common += ["--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={profile}"]
    command = [browser, *common, *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def test_a_browser_shows_the_page_without_errors(page, browser, tmp_path):
    dom, log = browse(browser, page, tmp_path / "profile", "--dump-dom")
    text = page.read_text(encoding="utf-8")
    for element in ("<path", "<figure>", "<table", "<use"):
        assert dom.count(element) == text.count(element) > 0, element
    assert "CONSOLE" not in log


def test_the_lines_and_tables_are_seen_on_the_screen(page, browser, tmp_path):
    from matplotlib import image

    picture = tmp_path / "page.png"
    options = [f"--screenshot={picture}", "--window-size=1200,2600"]
    browse(browser, page, tmp_path / "profile", *options)
    pixels = (image.imread(picture)[..., :3] * 255).round().astype(int)
    assert pixels.shape == (2600, 1200, 3)
    for colour in COLOURS[:3]:
        wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        assert (abs(pixels - wanted).max(-1) <= 2).sum() > 200, colour
    dark = (pixels.max(-1) < 110).any(1)  # rows with text, from the heading to the configuration
    assert dark[:200].any() and dark[1200:2600].any()


def test_a_browser_would_show_an_error_of_the_page(browser, tmp_path):
    """The test above can fail: the log tells of a broken page."""
    broken = tmp_path / "broken.html"
    broken.write_text("<!DOCTYPE html><title>t</title><script>missing()</script>")
    assert "CONSOLE" in browse(browser, broken, tmp_path / "profile", "--dump-dom")[1]


def test_a_folder_that_is_no_run_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.json: no such file"):
        write_report(tmp_path)
