"""Three sentences that decide, and how far they can.

Owns what counts as a difference: where the 95 % intervals of two candidates overlap, the data
cannot tell them apart, however far apart the figures in the middle are. Of true episodes, which
both candidates saw, the pairs say more: by the exact binomial test of those that only one found
(McNemar 1947, "Note on the sampling error of the difference between correlated proportions").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from worker.judging import intervals

ALPHA = 0.05
Summary = Mapping[str, Any]


class Interval(NamedTuple):
    """A figure with the ends of its 95 % interval; None: unknown."""

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, found: intervals.Interval | None) -> Interval:
        """What ``summary.json`` says of a figure."""
        return cls(None, None, None) if found is None else cls(**found)

    def apart_from(self, other: Interval) -> bool:
        """Whether the intervals do not overlap."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return False
        return self.low > other.high or other.low > self.high


class Verdict(NamedTuple):
    """The three sentences.

    Attributes:
        tone: ``good``, ``bad`` or ``unsure``, for the colour.
        answer: the decision in a few words.
        sentences: what was told, how right it was, and what follows.
    """

    tone: str
    answer: str
    sentences: tuple[str, str, str]


def alarm_rate(summary: Summary) -> Interval:
    """Episodes a machine and day."""
    return Interval.of(intervals.rate(summary["episodes"], summary["machine_days"]))


def share(one: Interval) -> str:
    """A share with its interval, for people."""
    if one.value is None:
        return "unknown"
    text = f"{one.value:.0%}"
    return (
        text if one.low is None or one.high is None else f"{text} ({one.low:.0%} to {one.high:.0%})"
    )


def rate(one: Interval) -> str:
    """A rate with its interval, for people."""
    if one.value is None:
        return "unknown"
    text = f"{one.value:.3g}"
    return (
        text if one.low is None or one.high is None else f"{text} ({one.low:.2g} to {one.high:.2g})"
    )


def duration(seconds: float | None) -> str:
    """A duration as people say it."""
    if seconds is None:
        return "unknown"
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if abs(seconds) >= 2 * length:
            return f"{amount(seconds / length)} {unit}"
    return f"{seconds:.3g} seconds"


def amount(value: float) -> str:
    """A number of which three digits matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def count(n: int, what: str) -> str:
    """A number of things."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def verdict(summary: Summary, other: Summary | None) -> Verdict:
    """What the results of a backtest decide."""
    if other is not None:
        return _of_two(summary, other)
    truth = summary.get("truth")
    return _of_one(summary) if truth is None else _with_truth(summary, truth)


def _told(summary: Summary) -> str:
    days = summary["machine_days"]
    return (
        f"In {amount(days)} machine-days of {count(summary['machines'], 'machine')}, "
        f"{summary['model']} told {count(summary['episodes'], 'episode')}: "
        f"{rate(alarm_rate(summary))} a machine and day."
    )


def _of_one(summary: Summary) -> Verdict:
    told = alarm_rate(summary)
    budget = summary["budget"]
    unknown = (
        "Nobody has said which of them were true, so neither the false ones nor what was missed "
        "can be counted."
    )
    if summary["threshold"] is not None or told.low is None or told.high is None:
        last = "Give --truth to judge it, or --against to hold it against another."
        return Verdict("unsure", "What it would have told.", (_told(summary), unknown, last))
    if told.low > budget:
        last = (
            f"If the machines were well, that is clearly more than the {budget:g} false ones a "
            "machine and day that are tolerated; if not, the timelines below show what it found."
        )
        return Verdict(
            "unsure", "More alarms than its budget of false ones.", (_told(summary), unknown, last)
        )
    amount = "clearly fewer than" if told.high < budget else "not to be told apart from"
    last = f"Even if all were false, they are {amount} the {budget:g} that are tolerated."
    return Verdict("good", "Within its budget of false alarms.", (_told(summary), unknown, last))


def _with_truth(summary: Summary, truth: Mapping[str, Any]) -> Verdict:
    recall, precision = Interval.of(truth["recall"]), Interval.of(truth["precision"])
    false = Interval.of(truth["false_alarms_per_machine_day"])
    budget = summary.get("budget")
    found = (
        f"It found {truth['found']:,} of {count(truth['episodes'], 'true episode')}, "
        f"{share(recall)}, half of them within {duration(truth['delay_s']['median'])}; "
        f"{share(precision)} of what it told was true."
        if truth["found"]
        else f"It found none of {count(truth['episodes'], 'true episode')}."
    )
    if (
        budget is None
        or summary["threshold"] is not None
        or false.low is None
        or false.high is None
    ):
        last = f"False ones: {rate(false)} a machine and day."
        return Verdict("unsure", "What it found and what it missed.", (_told(summary), found, last))
    if false.low > budget:
        tone, answer, word = "bad", "Too many false alarms.", "clearly more than"
    elif false.high < budget:
        tone, answer, word = "good", "Fewer false alarms than tolerated.", "clearly fewer than"
    else:
        tone, answer, word = (
            "good",
            "As many false alarms as tolerated.",
            "not to be told apart from",
        )
    last = f"False ones: {rate(false)} a machine and day, {word} the {budget:g} that are tolerated."
    return Verdict(tone, answer, (_told(summary), found, last))


def _of_two(summary: Summary, other: Summary) -> Verdict:
    this, that = names_of(summary, other)
    episodes = summary["against"]["episodes"]
    told = (
        f"In {amount(summary['machine_days'])} machine-days of "
        f"{count(summary['machines'], 'machine')}, {this} told "
        f"{count(summary['episodes'], 'episode')} and {that} {other['episodes']:,}: "
        f"{episodes['both']:,} by both, {episodes['only_this']:,} and {episodes['only_other']:,} "
        "by one alone."
    )
    if summary["against"].get("true_episodes") and summary.get("truth") and other.get("truth"):
        return _judged(summary, other, told)
    mine, theirs = alarm_rate(summary), alarm_rate(other)
    rates = f"{rate(mine)} against {rate(theirs)} a machine and day"
    fewer = this if summary["episodes"] < other["episodes"] else that
    often = (
        f"Clearly fewer alarms came from {fewer}: {rates}."
        if mine.apart_from(theirs)
        else f"How often they alarm cannot be told apart on these data: {rates}."
    )
    unknown = (
        "Nobody has said which alarms were right: give --truth, or look below at what only one "
        "of them told."
    )
    return Verdict("unsure", "Without the truth, neither is better.", (told, often, unknown))


def _judged(summary: Summary, other: Summary, told: str) -> Verdict:
    from scipy.stats import binomtest  # takes as long to import as a small backtest

    this, that = names_of(summary, other)
    mine, theirs = summary["truth"], other["truth"]
    pairs = summary["against"]["true_episodes"]
    alone, others = pairs["only_this"], pairs["only_other"]
    chance = float(binomtest(alone, alone + others).pvalue) if alone + others else 1.0
    finds = 0 if chance >= ALPHA else 1 if alone > others else -1
    recalls = [share(Interval.of(one["recall"])) for one in (mine, theirs)]
    found = (
        f"Of {count(mine['episodes'], 'true episode')} {this} found {recalls[0]} and {that} "
        f"{recalls[1]}; {alone:,} and {others:,} were found by one alone, which chance "
        + ("would hardly give" if finds else "may well give: they cannot be told apart")
        + f" (p = {chance:.2g})."
    )
    first, second = (Interval.of(one["false_alarms_per_machine_day"]) for one in (mine, theirs))
    quiet = 0
    if first.apart_from(second) and first.value is not None and second.value is not None:
        quiet = 1 if first.value < second.value else -1
    false = f"False alarms a machine and day: {rate(first)} against {rate(second)}, " + (
        f"clearly fewer by {this if quiet > 0 else that}."
        if quiet
        else "which cannot be told apart on these data."
    )
    sentences = told, found, false
    if not finds and not quiet:
        return Verdict("unsure", "They cannot be told apart.", sentences)
    if finds + quiet == 0:
        return Verdict("unsure", "One finds more, the other is quieter.", sentences)
    tone, better = ("good", this) if finds + quiet > 0 else ("bad", that)
    what = "Better" if finds and quiet else "More is found by" if finds else "Fewer false alarms by"
    return Verdict(tone, f"{what}{':' if finds and quiet else ''} {better}.", sentences)


def names_of(summary: Summary, other: Summary) -> tuple[str, str]:
    """What the two candidates are called."""
    this, that = summary["model"], other["model"]
    if this == that:
        return "these settings", "the others"
    return this, that
