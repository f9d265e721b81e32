"""Classes against groups as a picture for a lecture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.analyzer.report.tally import Answer, by_group
from simvirt.observe.picture import new_picture, save_picture

if TYPE_CHECKING:
    from pathlib import Path

    from simvirt.analyzer.model.analysis import Analysis

_COLOURS: Final = {
    Answer.CRITICAL: "#c0392b",
    Answer.PRIVILEGED: "#2874a6",
    Answer.INNOCUOUS: "#7dcea0",
    Answer.DECLARED: "#aab7b8",
    Answer.UNKNOWN: "#e5e8e8",
}

_SHARE_OF_A_DIGIT: Final = 1.2
"""Percent of the width that a digit of a label takes."""


def plot(analysis: Analysis, file: str | Path) -> None:
    """Write the picture: a bar for each group, its forms by what they are, as shares of the group.

    Raises:
        UsageError: the file's name has another suffix than .png, .svg or .pdf, or it cannot be written.
        UnsupportedError: matplotlib is not installed.
    """
    groups = by_group(analysis)[::-1]
    figure = new_picture(file, 12, 1.3 + 0.36 * len(groups))
    axes = figure.subplots()
    left = [0.0] * len(groups)
    names = [f"{tally.group}  ({tally.total})" for tally in groups]
    for what in Answer:
        shares = [100 * tally.counts[what] / tally.total for tally in groups]
        if not any(shares):
            continue
        bars = axes.barh(names, shares, left=left, color=_COLOURS[what], label=what.value, height=0.78)
        counts = [str(tally.counts[what]) for tally in groups]
        labels = [
            count if share > _SHARE_OF_A_DIGIT * len(count) else "" for count, share in zip(counts, shares, strict=True)
        ]
        dark = what in (Answer.CRITICAL, Answer.PRIVILEGED)
        axes.bar_label(bars, labels, label_type="center", color="white" if dark else "black", fontsize=11)
        left = [before + share for before, share in zip(left, shares, strict=True)]
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the group's encoding forms, %", fontsize=12)
    axes.tick_params(axis="y", labelsize=12, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(
        f"{analysis.info.title}: which instructions keep a VMM from trap-and-emulate", fontsize=14, loc="left"
    )
    figure.legend(loc="outside lower center", ncols=len(Answer), frameon=False, fontsize=12)
    save_picture(figure, file)
