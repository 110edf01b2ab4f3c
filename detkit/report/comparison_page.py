"""The page of a comparison: one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from detkit.comparison.table import Comparison, Row, comparison_to_json
from detkit.data.records import Dataset
from detkit.files import write_bytes
from detkit.report.page import render
from detkit.text import counted


def _intervals(table: Comparison) -> str:
    """Return what was drawn for the intervals, in words."""
    drawn = f"{table.num_groups:,} groups of " if table.num_groups < table.num_images else ""
    return f"95 %, from {table.samples:,} paired draws of {drawn}the images"


def write_comparison(path: Path, table: Comparison, dataset: Dataset, data_hash: str) -> None:
    """Write the page of a comparison on a data set; DetkitError when it cannot be written."""
    measured = [row for row in table.rows if row.maps]
    page = render(
        "compare.html.j2",
        title=f"{dataset.root.name}: {counted(len(table.rows), 'model')}",
        facts=[
            ("Data", f"{dataset.root} ({dataset.format}), split {table.split}"),
            ("Data hash (SHA-256)", data_hash),
            ("Protocol", table.protocol),
            ("Images", f"{table.num_images:,}"),
            ("Intervals", _intervals(table)),
        ],
        table=table,
        measured=measured,
        stages=list(dict.fromkeys(stage for row in measured for stage in row.stages)),
        class_names=list(dataset.class_names),
        data=[_point(row) for row in measured],
        figures={"data": str(dataset.root), "data_hash": data_hash, **comparison_to_json(table)},
    )
    write_bytes(path, page.encode("utf-8", errors="replace"))


def _point(row: Row) -> dict[str, object]:
    """Return what the chart shows of a model."""
    return {"name": row.name, "mean": row.mean, "maps": row.maps, "seconds": row.seconds}
