"""A fidelity report as a picture: how far runs of BERTopic agree, and where the converted model stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._fidelity import Fidelity

_CONVERTED, _BERTOPIC, _ROWS = "#c2410c", "#1d4ed8", "#e2e8f0"


def plot(fidelity: Fidelity, path: Path) -> None:
    """Write the picture; its format is that of the path's ending."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=(2, 3))
    _agreement(axes[0], fidelity)
    _stability(axes[1], fidelity)
    for ax in axes:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#f1f5f9")
        ax.set_axisbelow(True)
    figure.savefig(path, dpi=150)


def _agreement(ax: Any, fidelity: Fidelity) -> None:
    agreement = fidelity.agreement
    n_runs = len(agreement.runs)
    # Side by side in the order of their seeds, so that equal runs stay visible.
    places = [0.2 + 0.6 * run / (n_runs - 1) for run in range(n_runs)]
    ax.scatter(places, agreement.runs, s=26, color=_BERTOPIC, alpha=0.7, label=f"{n_runs} runs of BERTopic", zorder=2)
    ax.axhline(agreement.single_run, color=_BERTOPIC, linestyle=":", label=f"their mean, {agreement.single_run:.1%}")
    ax.axhline(agreement.converted, color=_CONVERTED, linewidth=2, label=f"converted, {agreement.converted:.1%}")
    ax.set(xlim=(0, 1), xticks=[], title="Agreement with BERTopic's consensus")
    ax.title.set_size(10)
    ax.margins(y=0.15)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), frameon=False, fontsize=8)


def _stability(ax: Any, fidelity: Fidelity) -> None:
    bins = [stability for stability in fidelity.stability if stability.rows]
    places = range(len(bins))
    shares = [stability.rows / fidelity.rows for stability in bins]
    ax.bar(places, shares, color=_ROWS, width=0.8, label="share of rows")
    for place, stability, share in zip(places, bins, shares, strict=True):
        ax.text(place, share + 0.01, f"{stability.rows:,}", ha="center", va="bottom", fontsize=8, color="#64748b")
    ax.plot(places, [stability.single_run for stability in bins], "o:", color=_BERTOPIC, label="a run agrees")
    ax.plot(places, [stability.converted for stability in bins], "D-", color=_CONVERTED, label="converted agrees")
    ax.set_xticks(places, [stability.runs_on_consensus for stability in bins])
    ax.set(
        ylim=(0, 1.05), xlabel="runs that give the row's consensus", title="Where BERTopic is sure, and where it is not"
    )
    ax.title.set_size(10)
    ax.legend(loc="upper left", frameon=False, fontsize=8)
