"""The building blocks of a report: a section holds plain sentences, pictures and tables. `page` renders them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Picture:
    """A picture of a section.

    Attributes
    ----------
    name : str
        Stem of a file's name, and the element's id in the page.
    draw : callable
        Without arguments; returns a new matplotlib Figure.
    alt : str
        What the picture shows, with its main figure, for readers who cannot see it.
    """

    name: str
    draw: Callable[[], Any]
    alt: str


@dataclass(frozen=True)
class Table:
    """A table of a section.

    Attributes
    ----------
    caption : str
    columns : list of str
    rows : list of list of str
        Texts of the data are raw here: who renders the table escapes them.
    of_texts : bool, default=False
        Whether rows hold texts of the data. Such a table is left out of a report without texts.
    is_open : bool, default=False
        Whether the page shows the table unfolded.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]
    of_texts: bool = False
    is_open: bool = False


@dataclass(frozen=True)
class Section:
    """A section of a report. A function ``xxx_section(result) -> Section or None`` beside what it shows makes it.

    Attributes
    ----------
    title : str
    words : str
        Plain sentences without texts of the data; what stands in `...` is code. Pictures follow the first paragraph.
    pictures : list of Picture
    tables : list of Table
    """

    title: str
    words: str
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


@dataclass(frozen=True)
class Finding:
    """A warning that the verdict may name. A function ``xxx_findings(result) -> list of Finding`` makes it.

    Attributes
    ----------
    doubt : float
        Share of the held-out rows whose order it puts in doubt, from 0 to 1. The verdict names the largest.
    sentence : str
        What was found, with its main figure. No texts of the data.
    remedy : str
        What to do next, one sentence.
    brief : str
        What was found in a few words, for a verdict that names a larger finding.
    """

    doubt: float
    sentence: str
    remedy: str
    brief: str


def interval_text(interval):
    """An interval as text: the estimate and, in brackets, its ends; a dash for None."""
    return "-" if interval is None else f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def percent_text(interval, digits=0):
    """A share with its interval as text, in percent; a dash for None."""
    if interval is None:
        return "-"
    estimate, low, high = (f"{value:.{digits}%}" for value in interval[:3])
    return f"{estimate} [{low}, {high}]"


def score_text(measure, interval):
    """A score as text: pair accuracy in percent, other measures as numbers."""
    return percent_text(interval, 1) if measure == "pair_accuracy" else interval_text(interval)


def sample_words(n_rows, n_all, what="held-out rows"):
    """A list with the sentence that says which rows were drawn; empty if all were measured."""
    return [f"Measured on a random sample of {n_rows:,} of {n_all:,} {what}."] if n_rows < n_all else []
