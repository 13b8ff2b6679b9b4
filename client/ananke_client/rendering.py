"""Rendering: a report for people, each finding with the line that it points at."""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ananke_client.report import ConstraintReport, Diagnostic
from ananke_client.source import Place, Source

_BEFORE, _AFTER = 60, 60
_STYLES = {"error": "bold red", "warning": "bold yellow", "relaxed": "bold magenta", "rewritten": "bold cyan"}
_GUARANTEES = {
    "exact": "every token is masked by the grammar",
    "verified": "masks enforce a part of it, the finished output is verified",
    "none": "there is no constraint",
}


def show_report(console: Console, name: str, source: Source, report: ConstraintReport) -> None:
    """Print a report: the verdict, then errors, warnings, and what was relaxed or rewritten."""
    verdict = Text(printable(name), style="bold")
    verdict.append(": ", style="default")
    if report.accepted:
        verdict.append("accepted", style="bold green")
        verdict.append(f", guarantee {report.guarantee} ({_GUARANTEES[report.guarantee]})", style="not bold")
    else:
        verdict.append("refused", style="bold red")
    console.print(verdict, soft_wrap=True)
    for label, diagnostics in _findings(report):
        for diagnostic in diagnostics:
            _show(console, label, diagnostic, source)


def _findings(report: ConstraintReport) -> Iterable[tuple[str, list[Diagnostic]]]:
    return (("error", report.errors), ("warning", report.warnings), ("relaxed", report.relaxed), ("rewritten", report.rewritten))


def _show(console: Console, label: str, diagnostic: Diagnostic, source: Source) -> None:
    place = source.place_of(diagnostic)
    head = Text(label, style=_STYLES[label])
    head.append(f" [{diagnostic.code}]", style="not bold")
    if where := _where(source.pointer_of(diagnostic), place):
        head.append(f" at {where}", style="not bold default")
    console.print()
    console.print(head, soft_wrap=True)
    if place is not None:
        _show_line(console, place, _STYLES[label])
    console.print(Text("  " + printable(diagnostic.message)), soft_wrap=True)
    if diagnostic.hint:
        console.print(Text("  hint: " + printable(diagnostic.hint), style="dim"), soft_wrap=True)


def _where(pointer: str | None, place: Place | None) -> str:
    parts = [printable(pointer)] if pointer else []
    if place is not None:
        parts.append(f"line {place.line}, column {place.column}")
    return ", ".join(parts)


def _show_line(console: Console, place: Place, style: str) -> None:
    start = max(0, place.column - 1 - _BEFORE)
    end = min(len(place.text), place.column - 1 + max(_AFTER, min(place.length, 2 * _AFTER)))
    before = ("…" if start else "") + printable(place.text[start : place.column - 1])
    marked_end = min(place.column - 1 + place.length, end)
    marked = printable(place.text[place.column - 1 : marked_end])
    after = printable(place.text[marked_end:end]) + ("…" if end < len(place.text) else "")
    gutter = f"{place.line:>5} | "
    line = Text(gutter, style="dim").append(before, style="not dim").append(marked, style=f"not dim {style}").append(after, style="not dim")
    console.print(line, soft_wrap=True)
    carets = " " * (len(gutter) - 2) + "| " + " " * cell_len(before) + "^" * max(1, cell_len(marked))
    console.print(Text(carets, style=style), soft_wrap=True)


def printable(text: str) -> str:
    """The text with what would move the cursor escaped, and a tab as one space."""
    return "".join(c if c.isprintable() else " " if c == "\t" else c.encode("unicode_escape").decode() for c in text)
