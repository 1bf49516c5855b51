"""The figures of `engine.py` as plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_COLORS = ("#9cc3e6", "#3f7fbf", "#e3a857", "#6b7280")

SpeedUp = tuple[float, float | None]
"""How many times faster, and the target where there is one."""


def plot_speed_ups(speed_ups: Mapping[str, Mapping[str, SpeedUp]], path: Path) -> None:
    """Bars of speed-ups by task, one a model, with marks at the targets.

    Parameters
    ----------
    speed_ups : mapping of str to mapping of str to SpeedUp
        By model, then by task.
    path : Path
    """
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(task for by_task in speed_ups.values() for task in by_task))
    height = 0.8 / len(speed_ups)
    figure, axis = plt.subplots(figsize=(9, 0.9 + 0.75 * len(tasks)), layout="constrained")
    marked = False
    for i, (model, by_task) in enumerate(speed_ups.items()):
        places = np.array([tasks.index(task) for task in by_task]) + (i - (len(speed_ups) - 1) / 2) * height
        ratios = [ratio for ratio, _ in by_task.values()]
        axis.barh(places, np.array(ratios) - 1, 0.9 * height, left=1, color=_COLORS[i], label=model)
        for place, (ratio, target) in zip(places, by_task.values(), strict=True):
            digits = 1 if ratio < 100 else 0
            axis.text(1.04 * max(ratio, target or 1, 1), place, f"{ratio:,.{digits}f}x", va="center", fontsize=8)
            if target is not None:
                label = None if marked else "target"
                axis.plot([target] * 2, place + np.array([-0.5, 0.5]) * height, color="black", lw=2, label=label)
                marked = True
    axis.axvline(1, color="#9ca3af", lw=0.8)
    axis.set(xscale="log", xlabel="times as fast as umap-learn + hdbscan", yticks=range(len(tasks)), yticklabels=tasks)
    axis.xaxis.set_major_formatter("{x:,.10g}x")
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.12)
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=2)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_growth(growth: Mapping[str, tuple[Sequence[int], Mapping[str, Sequence[float]]]], path: Path) -> None:
    """Lines of microseconds a row against what grows, one a part, the last one the whole.

    Parameters
    ----------
    growth : mapping of str to (sizes, mapping of str to microseconds)
        By what grows.
    path : Path
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(growth), figsize=(10, 3.6), layout="constrained", sharey=True, squeeze=False)
    for axis, (what, (sizes, parts)) in zip(axes[0], growth.items(), strict=True):
        *_, together = parts
        for color, (part, microseconds) in zip(_COLORS, parts.items(), strict=True):
            whole = part == together
            axis.plot(
                sizes,
                microseconds,
                marker="o",
                ms=4,
                color="black" if whole else color,
                lw=2 if whole else 1.5,
                label="together" if whole else part,
            )
        axis.set(xscale="log", xlabel=what, xticks=sizes, ylim=(0, None))
        axis.set_xticks([], minor=True)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.grid(axis="y", color="#e5e7eb")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("µs a row")
    axes[0][0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
