"""A run as one self-contained HTML page: no script, no address outside it."""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from psad_tf.data.records import read_json_lines
from psad_tf.errors import InputError
from psad_tf.features import load_json
from psad_tf.files import replaced_file
from psad_tf.metrics import METRICS

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 62rem }
body { margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(27rem, 1fr)); gap: 1rem }
figure { margin: 0 } figcaption { font-weight: 600 } svg { width: 100%; height: auto }
table { border-collapse: collapse }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } .lists td { text-align: left } .liked { font-weight: 600 }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto; font-size: 12px }
"""


def write_report(
    run_dir: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    lists_dir: str | os.PathLike[str] | None = None,
    items: str | os.PathLike[str] | None = None,
    shown: int = 3,
) -> str:
    """Writes the page of a finished run.

    It has the loss terms and the distillation weight by epoch, validation metrics by epoch, how far
    teacher and student agree (Kendall's tau), and, given the lists, a few validation lists before and
    after.

    Args:
        run_dir: A folder that `psad train` wrote.
        output: The file to write; None writes `<run_dir>/report.html`.
        lists_dir: The run's lists, for the examples; None leaves them out.
        items: JSON lines of items with a `title`, shown instead of their ids.
        shown: Number of example lists.

    Returns:
        The file written.

    Raises:
        InputError: The run or the lists cannot be read.
    """
    folder = os.fspath(run_dir)
    metrics = load_json(os.path.join(folder, "metrics.json"))
    history = load_json(os.path.join(folder, "history.json"))
    config = load_json(os.path.join(folder, "config.json"))
    if not isinstance(history, list) or not history:
        raise InputError(f"{os.path.join(folder, 'history.json')}: has no epochs")
    if not isinstance(metrics, dict) or not {"best_epoch", "valid"} <= metrics.keys():
        raise InputError(f"{os.path.join(folder, 'metrics.json')}: has no best epoch and its metrics")
    best = int(metrics["best_epoch"])
    parts = [
        f"<h1>PSAD run {html.escape(os.path.basename(os.path.normpath(folder)))}</h1>",
        f"<p>{len(history)} epochs; the weights of epoch {best} were kept, the best by validation NDCG@10 of "
        "the student.</p>",
        "<h2>Validation metrics of the kept epoch</h2>",
        _metric_table(metrics["valid"]),
        "<h2>By epoch</h2>",
        f'<div class="charts">{_charts(history, best)}</div>',
    ]
    if lists_dir is not None:
        parts += ["<h2>Validation lists before and after</h2>", _examples(folder, lists_dir, items, shown)]
    parts += ["<h2>Configuration</h2>", f"<pre>{html.escape(json.dumps(config, indent=1))}</pre>"]
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>PSAD run</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    path = os.fspath(output) if output is not None else os.path.join(folder, "report.html")
    with replaced_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(page)
    return path


def _metric_table(valid: Mapping[str, Mapping[str, float]]) -> str:
    head = "".join(f"<th>{metric}</th>" for metric in METRICS)
    rows = "".join(
        f"<tr><td>{html.escape(model)}</td>"
        + "".join(f"<td>{values[metric]:.4f}</td>" for metric in METRICS)
        + "</tr>"
        for model, values in valid.items()
    )
    return f"<table><tr><th></th>{head}</tr>{rows}</table>"


def _charts(history: Sequence[Mapping[str, Any]], best: int) -> str:
    from psad_tf.evaluation.charts import line_chart

    epochs = [int(each["epoch"]) for each in history]

    def losses(*names: str) -> dict[str, list[float]]:
        return {
            name: [each["losses"].get(name, math.nan) for each in history]
            for name in names
            if any(name in each["losses"] for each in history)
        }

    quality = {model: [each["valid"][model]["ndcg@10"] for each in history] for model in history[0]["valid"]}
    charts = [
        ("Ranking losses", losses("value", "policy", "student_listwise")),
        ("Other losses", losses("student_pointwise", "distillation", "unlikelihood")),
        ("Distillation weight b(t)", losses("distillation_weight")),
        ("Norm of the gradient before it is clipped", losses("gradient_norm")),
        ("Validation NDCG@10", quality),
        ("Validation MAP@10", {m: [e["valid"][m]["map@10"] for e in history] for m in history[0]["valid"]}),
        ("Agreement of teacher and student (Kendall's tau)", {"tau": [e["agreement"] for e in history]}),
    ]
    return "".join(line_chart(title, epochs, series, best) for title, series in charts if series)


def _examples(
    run_dir: str,
    lists_dir: str | os.PathLike[str],
    items: str | os.PathLike[str] | None,
    shown: int,
) -> str:
    """Tables of a few validation lists: initial order, teacher, student; relevant items in bold."""
    import numpy as np
    import tensorflow as tf

    from psad_tf.data.list_folder import read_serialized
    from psad_tf.data.parsing import parse_lists
    from psad_tf.training.run_folder import load_psad

    titles = _titles(items)
    encoder, model, _ = load_psad(run_dir)
    serialized = list(read_serialized(lists_dir, "valid").take(shown).as_numpy_iterator())
    raw = parse_lists(tf.constant(serialized), encoder.declaration)
    scores = model.rank(encoder(raw))
    tables = []
    for row in range(len(serialized)):
        names = [each.decode() for each in raw["item_id"][row, :, 0].numpy() if each]
        labels = raw["relevance"][row].numpy()[: len(names)]
        orders = {"initial order": np.arange(len(names))} | {
            name: np.argsort(-scores[name][row].numpy()[: len(names)], kind="stable")
            for name in ("teacher", "student")
        }
        head = "".join(f"<th>{name}</th>" for name in orders)
        body = ""
        for place in range(min(10, len(names))):
            body += "<tr>"
            for order in orders.values():
                item = order[place]
                kind = ' class="liked"' if labels[item] >= 1 else ""
                title = html.escape(titles.get(names[item], names[item]))
                body += f"<td{kind}>{title} ({labels[item]:g})</td>"
            body += "</tr>"
        request = html.escape(raw["request_id"][row].numpy().decode())
        tables.append(f'<h3>{request}</h3><table class="lists"><tr>{head}</tr>{body}</table>')
    return "<p>The first ten of each; the label in brackets, relevant items in bold.</p>" + "".join(tables)


def _titles(items: str | os.PathLike[str] | None) -> dict[str, str]:
    if items is None:
        return {}
    try:
        return {row["item_id"]: str(row.get("title", row["item_id"])) for row in read_json_lines(items)}
    except (KeyError, TypeError) as error:
        raise InputError(f"{os.fspath(items)}: an item has no usable item_id ({error!r})") from None
