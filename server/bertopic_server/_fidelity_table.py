"""A fidelity report as a table and a sentence."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from ._exceptions import ServerError

if TYPE_CHECKING:
    from bertopic_converters import Fidelity

_PICTURES = (".png", ".svg", ".pdf")


class UnwritableReport(ServerError):
    """A report that cannot be written where it should be."""


def require_writable(json_file: Path | None, plot: Path | None) -> None:
    """Say what would keep the files from being written before measuring for minutes.

    Raises
    ------
    UnwritableReport
        A folder does not exist, or the plot's ending is not known.
    ModuleNotFoundError
        matplotlib is not installed.
    """
    for path in (json_file, plot):
        if path is not None and not path.parent.is_dir():
            raise UnwritableReport(f"the folder of {path} does not exist. Create it, or give another path.")
    if plot is None:
        return
    if plot.suffix.lower() not in _PICTURES:
        raise UnwritableReport(
            f"{plot} ends in {plot.suffix or 'nothing'!r}; expected {', '.join(_PICTURES[:-1])} or {_PICTURES[-1]}."
        )
    import_module("matplotlib")


def fidelity_table(fidelity: Fidelity) -> Table:
    """The converted model beside BERTopic, a figure a row."""
    rows = "texts" if fidelity.measured_on == "texts" else "rows made from training embeddings"
    table = Table("", "converted", "BERTopic", title=f"{fidelity.rows:,} {rows}, {fidelity.seeds} runs of BERTopic")
    for column in table.columns[1:]:
        column.justify = "right"
    agreement, outliers, recall = fidelity.agreement, fidelity.outliers, fidelity.neighbor_recall
    runs = f"{agreement.lowest_run:.1%} to {agreement.highest_run:.1%}"
    table.add_row("agreement with BERTopic's consensus", _share(agreement.converted), _share(agreement.single_run))
    table.add_row("  lowest and highest run", "", runs)
    table.add_row("  where all runs agree", _share(agreement.on_unanimous_rows), "")
    table.add_row("not all runs agree", "", _share(fidelity.disagreement.any_run))
    table.add_row("  two runs differ, on average", "", _share(fidelity.disagreement.two_runs))
    table.add_row("outliers", _share(outliers.converted), _share(outliers.bertopic))
    table.add_row("  among training rows", "", _share(outliers.training))
    table.add_row("nearest neighbours found", _share(recall.converted), _share(recall.umap))
    table.add_row("training rows predicted into another cluster", _share(fidelity.relabeled_training_rows), "")
    if fidelity.embedding is not None:
        embedding = fidelity.embedding
        table.add_row("embeddings: largest difference", f"{embedding.largest:.1e}", "")
        table.add_row("  smallest and mean cosine", f"{embedding.smallest_cosine:.6f}, {embedding.mean_cosine:.6f}", "")
        table.add_row("  topics that change by it", _share(embedding.changed_topics), "")
    return table


def verdict(fidelity: Fidelity) -> str:
    """What the first row of the table means."""
    agreement = fidelity.agreement
    if agreement.converted >= agreement.single_run:
        return "The converted model is at least as close to BERTopic's consensus as a run of BERTopic is on average."
    if agreement.converted >= agreement.lowest_run:
        return "The converted model is as close to BERTopic's consensus as runs of BERTopic are, below their mean."
    return "The converted model is farther from BERTopic's consensus than any run of BERTopic."


def in_short(repository: Path, name: str) -> str:
    """What `convert` measured and wrote into the manifest, in two sentences; empty if nothing."""
    from bertopic_engine.storage import read_manifest

    fidelity = read_manifest(repository)["models"][name].get("fidelity")
    if not fidelity:
        return ""
    agreement = fidelity["agreement"]
    return (
        f"On {fidelity['rows']} rows made from training embeddings it agrees with BERTopic's consensus in "
        f"{agreement['converted']:.1%}, a run of BERTopic in {agreement['single_run']:.1%}. "
        f"HDBSCAN predicts {fidelity['relabeled_training_rows']:.1%} of the training rows into another cluster "
        "than it fitted them to."
    )


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"
