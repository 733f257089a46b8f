"""Tables and picture of the true list values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import markdown_table, mean_and_spread, save_figure

_OURS, _BASELINE, _REFERENCE = "#1f6fb4", "#9a9a9a", "#d9b44a"
_REFERENCES = ("random", "initial", "pointwise_oracle", "greedy_oracle", "beam_oracle")

LABELS = {
    "random": "random order",
    "initial": "initial ranker's order",
    "lambdamart": "LambdaMART",
    "pointwise": "pointwise network",
    "pointwise_debiased": "pointwise network with slot bias",
    "dlcm": "DLCM",
    "prm": "PRM",
    "setrank": "SetRank",
    "seq2slate": "Seq2Slate",
    "nar4rec": "NAR4Rec",
    "student": "**PSAD, student (served)**",
    "teacher_k1": "PSAD, teacher, K = 1",
    "teacher_k2": "PSAD, teacher, K = 2",
    "teacher_k3": "PSAD, teacher, K = 3",
    "teacher_k6": "PSAD, teacher, K = 6",
    "pointwise_oracle": "oracle that knows the world, not the list",
    "greedy_oracle": "greedy oracle",
    "beam_oracle": "beam oracle",
}

Found = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]


def summary(found: Found, world: str = "interactions") -> str:
    """The table for readers: the models in words, a column a log in which the student was measured.

    >>> student = {"mean": 0.9, "std": 0.0, "seeds": [0.9]}
    >>> print(summary({"interactions": {"1000": {"all": {"student": student}}}}))
    | order                      | 1,000 lists |
    |:---------------------------|------------:|
    | **PSAD, student (served)** |       0.900 |
    """
    logs = [
        (lists, shown)
        for shown in ("all", "6")
        for lists in sorted(found[world], key=int)
        if "student" in found[world][lists].get(shown, {})
    ]
    header = [
        "order",
        *(f"{int(n):,} lists{'' if shown == 'all' else f', {shown} shown'}" for n, shown in logs),
    ]
    rows = []
    for model, label in LABELS.items():
        of_logs = [found[world][lists][shown].get(model) for lists, shown in logs]
        if any(of_logs):
            rows.append([label, *("" if each is None else mean_and_spread(each, 3) for each in of_logs)])
    return markdown_table(header, rows)


def tables(found: Found, significance: Found, order: Sequence[str]) -> str:
    """A table a world: the share of the greedy oracle's value by model, a column a log."""
    parts = ["# True list value: expected clicks on the first 6 slots, as a share of the greedy oracle's"]
    parts += [summary(found, world) for world in found if world == "interactions"]
    for world, of_world in found.items():
        columns = [
            (lists, shown)
            for lists in sorted(of_world, key=int)
            for shown in sorted(of_world[lists], reverse=True)
        ]
        rows = []
        for model in order:
            cells = [_cell(of_world[lists][shown].get(model)) for lists, shown in columns]
            if any(cells):
                rows.append([model, *cells])
        header = ["model", *(f"{int(lists):,} lists, {shown} shown" for lists, shown in columns)]
        parts.append(f"## World `{world}`\n\n{markdown_table(header, rows)}")
        tested = significance.get(world, {})
        rows = [
            [
                f"{int(lists):,} lists, {shown} shown: {model}",
                f"{facts['difference']:+.4f}",
                f"{facts['low']:+.4f} to {facts['high']:+.4f}",
                f"{facts['p']:.1g}",
            ]
            for lists, of_lists in tested.items()
            for shown, of_shown in of_lists.items()
            for model, facts in sorted(of_shown.items(), key=lambda each: order.index(each[0]))
        ]
        if rows:
            header = ["student less", "clicks per list", "95 %", "p"]
            parts.append(f"Paired by list, seeds averaged:\n\n{markdown_table(header, rows)}")
    return "\n\n".join(parts)


def _cell(facts: Mapping[str, Any] | None) -> str:
    return "" if facts is None else mean_and_spread(facts)


def draw(found: Found, path: str, order: Sequence[str]) -> None:
    """A panel for all shown and one for some, of the log that most baselines' runs learned from."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    of_world = found.get("interactions", {})
    panels = []
    for shown in ("all", "6"):
        with_student = [lists for lists in of_world if "student" in of_world[lists].get(shown, {})]
        if with_student:
            runs = {
                lists: sum(
                    len(facts["seeds"])
                    for name, facts in of_world[lists][shown].items()
                    if _color(name) == _BASELINE
                )
                for lists in with_student
            }
            lists = max(with_student, key=lambda lists: (runs[lists], int(lists)))
            panels.append((f"{int(lists):,} logged lists, {shown} of 20 shown", of_world[lists][shown]))
    if not panels:
        return
    figure = Figure(figsize=(6.6 * len(panels), 4.6))
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, models) in zip(axes[0], panels, strict=True):
        names = sorted((name for name in order if name in models), key=lambda name: models[name]["mean"])
        means = [100 * models[name]["mean"] for name in names]
        spreads = [100 * models[name]["std"] for name in names]
        labels = [LABELS[name].replace("*", "") for name in names]
        axis.barh(labels, means, xerr=spreads, color=[_color(name) for name in names], height=0.7)
        for row, mean in enumerate(means):
            axis.text(mean + 0.6, row, f"{mean:.1f}", va="center", fontsize=8)
        axis.set_xlim(0, max(means) + 12)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("clicks, % of the greedy oracle's")
        axis.spines[["top", "right"]].set_visible(False)
    handles = [
        Rectangle((0, 0), 1, 1, color=color, label=label)
        for color, label in ((_OURS, "PSAD"), (_BASELINE, "baselines"), (_REFERENCE, "references"))
    ]
    axes[0][-1].legend(handles=handles, loc="lower right", frameon=False, fontsize=8)
    save_figure(figure, path)


def _color(model: str) -> str:
    if model == "student" or model.startswith("teacher"):
        return _OURS
    return _REFERENCE if model in _REFERENCES else _BASELINE
