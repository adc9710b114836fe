"""What may be said about a study's results, in sentences: what was seen, how sure that is, and what cannot be known.

A difference that is not significant is called that, and never a tie: so few seeds may miss it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sgenet.study.analysis import Analysis, Block, Difference, Further, Row, Trend
from sgenet.study.definition import Definition
from sgenet.study.statistics import POWER, needed_seeds, smallest_difference

__all__ = [
    "PROMISE",
    "answer",
    "courses",
    "detectable",
    "failures",
    "further",
    "mean_and_spread",
    "number_word",
    "outlook",
    "p_words",
    "sentences",
    "signed",
    "span",
]

PROMISE = (
    "at most 5% of such studies call a difference of the last epoch significant that is none. Whether one network was "
    "better throughout is a second question, with 5% of its own."
)
_MANY = 4  # differences that are told one by one
_SMALL = 0.05  # points that nobody would run a study for
WIRING = "Wiring check, no conclusion: every part worked, on trainings far too short and too few to compare anything."


def answer(analysis: Analysis) -> str:
    """The answer in one sentence.

    Args:
        analysis: Of a study, finished or not.

    Returns:
        Plain text.
    """
    if analysis.definition.wiring:
        return WIRING
    if not analysis.finished:
        return "Nothing is trained yet."
    begin = "" if analysis.complete else f"So far, {analysis.finished} of {analysis.cells} trainings: "
    parts = [_trend(analysis.definition, trend) for trend in analysis.trends] or [_levels(analysis)]
    names = tuple(level.name for level in analysis.definition.factor.levels)
    if not begin and not parts[0].startswith(names):  # a level's name stays as it is
        parts[0] = parts[0][:1].upper() + parts[0][1:]
    return begin + " ".join(parts)


def _levels(analysis: Analysis) -> str:
    every = [(block, row) for block in analysis.blocks for row in block.rows if not row.baseline]
    found: dict[str, list[tuple[Block, Row]]] = {}
    for block, row in every:
        verdict = "untested" if row.difference is None else row.difference.verdict
        found.setdefault(verdict, []).append((block, row))
    if len(found.get("untested", ())) == len(every):
        return _untestable(analysis)
    baseline = analysis.definition.baseline
    parts = []
    for verdict in ("better", "worse"):
        if verdict in found:
            verb = "is" if len(found[verdict]) == 1 else "are"
            parts.append(f"{_named(found[verdict])} {verb} significantly {verdict} than {baseline}")
    open_rows = found.get("not significant", [])
    if open_rows and not parts:
        parts.append(_nothing(baseline, open_rows))
    elif open_rows:
        parts.append(f"{_counted(len(open_rows), 'other')} not differ significantly")
    if "untested" in found:
        number = len(found["untested"])
        parts.append(f"{number_word(number)} {'is' if number == 1 else 'are'} not tested yet")
    return "; ".join(parts) + "."


def _untestable(analysis: Analysis) -> str:
    if analysis.definition.seeds < 2:
        return "a single seed shows no spread, so nothing follows from the differences."
    if any(row.difference is not None and row.difference.paired.pairs > 1 for row in analysis.rows):
        return "every seed differs by the same amount, which leaves no spread to judge by."
    return "too few seeds are finished to see how much differences vary, so nothing follows from them."


def _counted(number: int, what: str) -> str:
    return f"the {what} one does" if number == 1 else f"the {what} {number_word(number)} do"


def _nothing(baseline: str, rows: Sequence[tuple[Block, Row]]) -> str:
    if len(rows) == 1:
        block, row = rows[0]
        return f"{_name(block, row)} does not differ significantly from {baseline}: {_seen(row)}"
    block, row = max(rows, key=lambda pair: abs(_points(pair[1])))
    which = "either of the two" if len(rows) == 2 else f"any of the {number_word(len(rows))}"
    return (
        f"no significant difference from {baseline} was found for {which}; the largest is that of {_name(block, row)}: "
        f"{_seen(row)}"
    )


def _named(found: Sequence[tuple[Block, Row]]) -> str:
    if len(found) > _MANY:
        most = max(found, key=lambda pair: abs(_points(pair[1])))
        return f"{len(found)} levels ({_name(*most)} by most, {_seen(most[1])})"
    return _listed([f"{_name(block, row)} ({_seen(row)})" for block, row in found])


def _name(block: Block, row: Row) -> str:
    own = next(level for factor, level in row.combination.levels.items() if factor not in block.circumstances)
    return f"{own} (at {block.name})" if block.name else own


def _seen(row: Row) -> str:
    return "no common seed" if row.difference is None else _difference(row.difference)


def _difference(difference: Difference, unit: str = "points") -> str:
    pair = difference.paired
    interval = f", 95% interval {span(pair.interval)}" if pair.interval is not None else ""
    p = f", {p_words(difference.adjusted_p)}" if difference.adjusted_p is not None else ""
    return f"{signed(pair.difference)} {unit}{interval}{p}"


def _points(row: Row) -> float:
    return 0.0 if row.difference is None else row.difference.paired.difference


def _trend(definition: Definition, trend: Trend) -> str:
    rest = ", ".join(f"{factor} {level}" for factor, level in trend.circumstances.items())
    what = f"{definition.compared.title} of {trend.level} minus that of {definition.baseline}"
    what += f" (at {rest})" if rest else ""
    found = _difference(trend.slope, f"points for each unit of {trend.along}")
    if trend.slope.verdict == "untested":
        inner = definition.compared.name + what.removeprefix(definition.compared.title)
        return f"How {inner} changes with {trend.along} cannot be told from so few seeds: {found}."
    if trend.slope.verdict == "not significant":
        return f"{what} does not change significantly with {trend.along}: {found}."
    return (
        f"{what} {'rises' if trend.slope.verdict == 'better' else 'falls'} significantly with {trend.along}: {found}."
    )


def sentences(analysis: Analysis) -> list[str]:
    """What was seen of each level, one sentence each; fewer than there are rows where there are many.

    Args:
        analysis: Of a study.

    Returns:
        Plain text.
    """
    if analysis.definition.wiring:
        return []
    return [
        _sentence(analysis.definition, block, row, row.difference)
        for block in analysis.blocks
        for row in block.rows
        if row.difference is not None
    ]


def _sentence(definition: Definition, block: Block, row: Row, difference: Difference) -> str:
    seen = f"{_name(block, row)} ended {_apart(difference.paired.difference, definition.baseline)}"
    if difference.paired.pairs == 1:
        return f"{seen}; a single seed shows no spread, so nothing follows from it."
    if difference.paired.interval is None:
        return f"{seen} with every seed alike, which leaves no spread to judge by."
    interval = span(difference.paired.interval)
    corrected = ", corrected" if definition.comparisons > 1 else ""
    seen += f" (95% interval of the difference: {interval} points; {p_words(difference.adjusted_p)}{corrected})"
    if difference.verdict == "not significant":
        return f"{seen}: not significant, equal networks could have given these trainings too."
    return f"{seen}: significant."


def courses(analysis: Analysis) -> list[str]:
    """Whether levels learned better throughout, by their mean over all epochs.

    Args:
        analysis: Of a study.

    Returns:
        One sentence for each row that has a baseline.
    """
    if analysis.definition.wiring:
        return []
    found = []
    for block in analysis.blocks:
        for row in block.rows:
            if row.course is None or row.ahead is None:
                continue
            ahead = (
                f"{_name(block, row)} was ahead of {analysis.definition.baseline} after {row.ahead:.0%} of the epochs"
            )
            verdict = {
                "better": "significantly better throughout",
                "worse": "significantly worse throughout",
                "not significant": "not significant",
                "untested": "not tested",
            }[row.course.verdict]
            found.append(f"{ahead}; its mean over all of them differs by {_difference(row.course)}: {verdict}.")
    return found


def further(analysis: Analysis) -> str:
    """What the other figures of the same trainings show, beside the one that the study asks about.

    Args:
        analysis: Of a study.

    Returns:
        Plain text; empty where there are no others, or nothing can be said.
    """
    if analysis.definition.wiring:
        return ""
    tested = [
        (block, row, figure)
        for block in analysis.blocks
        for row in block.rows
        for figure in row.further
        if figure.difference is not None and figure.difference.verdict != "untested"
    ]
    if not tested:
        return ""
    baseline = analysis.definition.baseline
    names = _listed(list(dict.fromkeys(figure.metric.name for _, _, figure in tested)))
    corrected = "corrected for all these figures together, apart from the table above"
    found = [entry for entry in tested if entry[2].difference and entry[2].difference.verdict != "not significant"]
    if not found:
        return f"Of {names}, none differs significantly from that of {baseline}, {corrected}."
    told = "; ".join(
        f"{figure.metric.name} of {_name(block, row)} {_difference(figure.difference)}"
        for block, row, figure in found
        if figure.difference is not None
    )
    return f"Of {names}, significant ({corrected}): {told}."


def failures(analysis: Analysis) -> list[str]:
    """Which trainings failed, and why."""
    return [f"{cell} failed: {reason}" for cell, reason in analysis.failed.items()]


def detectable(definition: Definition, spread: float | None, source: str = "") -> str:
    """The smallest difference that the study can find, before it runs.

    Args:
        definition: The study.
        spread: Standard deviation of the differences between two trainings of one seed, points; None if unknown.
        source: How it is known.

    Returns:
        One sentence.
    """
    seeds, tests = definition.seeds, definition.comparisons
    if seeds < 2:
        return "A single seed shows no spread: this study can find no difference, however large."
    if spread is None:
        return (
            "How small a difference this study can find is not known beforehand: no spread is stated; a first run with "
            "a few seeds would tell."
        )
    smallest = smallest_difference(spread, seeds, tests)
    corrected = f" and {tests} comparisons" if tests > 1 else ""
    known = f" ({source})" if source else ""
    return (
        f"With {seeds} seeds{corrected} it takes a difference of {smallest:.1f} points to be found significant in "
        f"{POWER:.0%} of such studies, if differences vary from seed to seed by {spread:.2g} points{known}."
    )


def outlook(analysis: Analysis) -> str:
    """What a study would need in order to settle the largest difference that is not significant.

    Args:
        analysis: Of a study.

    Returns:
        Plain text; empty where nothing is left open.
    """
    if analysis.definition.wiring or not analysis.finished:
        return ""
    ending = (
        "What holds on these images, with this network and this schedule, need not hold on others: another study, with "
        "other data or another recipe, would tell."
    )
    open_rows = [r for r in analysis.rows if r.difference is not None and r.difference.verdict == "not significant"]
    most = max(open_rows, key=lambda row: abs(_points(row)), default=None)
    pair = None if most is None or most.difference is None else most.difference.paired
    if pair is None or not pair.spread or abs(pair.difference) < _SMALL:
        return ending
    needed = needed_seeds(pair.difference, pair.spread, analysis.definition.comparisons)
    if needed is not None and needed <= pair.pairs:
        return ending  # it had its chance
    number = "more than a thousand" if needed is None else f"about {needed}"
    return (
        f"To find a difference of {abs(pair.difference):.1f} points with a probability of {POWER:.0%}, a study like "
        f"this would need {number} seeds, fixed beforehand, if it goes on to vary by {pair.spread:.1f} points from one "
        f"seed to another. {ending}"
    )


# ------------------------------------------------------------------------------------------------- numbers


def mean_and_spread(row: Row | Further) -> str:
    """Mean and standard deviation of the seeds, percent."""
    if row.mean is None:
        return "–"
    return f"{row.mean:.2f}" + ("" if row.spread is None else f" ± {row.spread:.2f}")


def p_words(p: float | None) -> str:
    """A p value after Holm's correction, in words.

    Examples:
        >>> p_words(0.0004).split(), p_words(0.04).split(), p_words(1.0).split()
        (['p', '<', '0.001'], ['p', '=', '0.040'], ['p', '=', '1'])
    """
    if p is None:
        return "not tested"
    words = "p < 0.001" if p < 0.001 else "p = 1" if p > 0.9995 else f"p = {p:.3f}"
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def signed(points: float) -> str:
    """A number of points with its sign, two decimals and a true minus.

    Examples:
        >>> signed(0.25), signed(-1), signed(-0.001)
        ('+0.25', '−1.00', '0.00')
    """
    rounded = f"{abs(points):.2f}"
    return rounded if float(rounded) == 0 else ("+" if points > 0 else "−") + rounded


def span(interval: tuple[float, float] | None) -> str:
    """An interval of a difference.

    Examples:
        >>> span((-0.5, 1.25))
        '−0.50 to +1.25'
    """
    return "–" if interval is None else f"{signed(interval[0])} to {signed(interval[1])}"


def number_word(number: int) -> str:
    """Small numbers as words, others as digits.

    Examples:
        >>> number_word(3), number_word(12)
        ('three', '12')
    """
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[number] if number < len(words) else str(number)


def _apart(points: float, baseline: str) -> str:
    if signed(points) == "0.00":
        return f"level with {baseline}"
    return f"{abs(points):.2f} points {'above' if points > 0 else 'below'} {baseline}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
