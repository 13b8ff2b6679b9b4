"""Draw the results of engine_benchmark.py: a step's time over the unconstrained one, by batch, for each workload.

    python scripts/plot_engine.py engine.png engine.json [xgrammar.json...]

A point that several files have is the last one's.

Needs matplotlib (``pip install matplotlib``), which nothing else here does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

NAMES = {"ours": "Ananke", "guidance": "vLLM, guidance", "xgrammar": "vLLM, xgrammar"}
COLOURS = {"ours": "#0b6e4f", "guidance": "#c1666b", "xgrammar": "#d4a373"}


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    results = [json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[2:]]
    every = [point for result in results for point in result["points"] if point["variant"] in NAMES and "ratio" in point]
    points = list({(point["workload"], point["batch"], point["variant"]): point for point in every}.values())
    workloads = sorted({point["workload"] for point in points})
    figure, axes = plt.subplots(1, len(workloads), figsize=(4.2 * len(workloads), 3.6), sharey=True, squeeze=False)
    for axis, workload in zip(axes[0], workloads, strict=True):
        _draw(axis, workload, [point for point in points if point["workload"] == workload])
    axes[0][0].set_ylabel("time a token over unconstrained")
    axes[0][-1].legend(frameon=False)
    dates = sorted({result["date"][:10] for result in results})
    title = f"{results[0]['device']}, vLLM 0.32, a 7B shape, vocabulary of 151,646 ({' to '.join(dict.fromkeys((dates[0], dates[-1])))})"
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(sys.argv[1], dpi=130)
    return 0


def _draw(axis: Any, workload: str, points: list[dict[str, Any]]) -> None:
    for variant, name in NAMES.items():
        line = sorted((point["batch"], point["ratio"]) for point in points if point["variant"] == variant)
        if line:
            axis.plot(*zip(*line, strict=True), marker="o", label=name, color=COLOURS[variant])
    axis.axhline(1, color="#888888", linewidth=0.8)
    axis.set(title=workload, xlabel="requests in the batch", xscale="log", yscale="log")
    batches = sorted({point["batch"] for point in points})
    axis.set_xticks(batches, [str(batch) for batch in batches])
    axis.set_yticks([1, 1.5, 2, 3, 5, 10, 20, 30], ["1", "1.5", "2", "3", "5", "10", "20", "30"])
    axis.minorticks_off()


if __name__ == "__main__":
    sys.exit(main())
