"""Merging: an alternative's literals for one type of value into parts, or into nothing where they contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from fractions import Fraction
from math import lcm

from ananke_server.constraints.schema.alternatives import Alternative
from ananke_server.constraints.schema.document import Document, Goal
from ananke_server.constraints.schema.expand import JsonType
from ananke_server.constraints.schema.literals import (
    Bound,
    Contains,
    Integral,
    Item,
    ItemCount,
    Items,
    Judge,
    Length,
    Literal,
    Multiple,
    Pattern,
    Unique,
    Unsupported,
    Values,
    decimal,
    is_integral,
    of_kind,
)
from ananke_server.constraints.schema.objects import ObjectMerger
from ananke_server.constraints.schema.parts import (
    MAX_ENUMERATED,
    ArrayPart,
    Counter,
    Dropped,
    Interval,
    NumberPart,
    Part,
    StringPart,
    ValuesPart,
)

MAX_COEFFICIENT = 2_000
"""The largest ``multipleOf``, in units of its last decimal place; llguidance has a state for each remainder."""
MAX_PLACES = 10
"""The most decimal places of a ``multipleOf``; llguidance computes with 64-bit integers."""
MAX_PATTERNS = 6
"""Patterns that one string is held to at once."""
MAX_COUNTED = 64
"""The most items of an array in which ``contains`` is counted: each number of items and of counts is a rule."""


@dataclass(slots=True)
class Merger:
    """Merges alternatives of one document.

    ``judge`` decides a concrete value, ``possible`` whether a goal may be fulfilled at all, as far as that can be told.
    """

    document: Document
    judge: Judge
    possible: Callable[[Goal], bool]
    parts_of: Callable[[Goal, JsonType], list[Part]]

    def merge(self, alternative: Alternative, type_: JsonType) -> list[Part]:
        """The parts of an alternative; none where no value of the type fulfils it."""
        literals = alternative.literals
        dropped = [Dropped(one.origin, one.reason, one.hint) for one in of_kind(literals, Unsupported)]
        candidates = _candidates(literals, type_)
        if candidates is not None:
            values = [value for value in candidates if all(literal.holds(value, self.judge) for literal in literals)]
            return [ValuesPart(values, dropped=dropped)] if values else []
        parts: Iterable[Part]
        match type_:
            case "number":
                parts = _number(literals)
            case "string":
                parts = _string(literals)
            case "array":
                parts = self._array(literals)
            case _:
                parts = ObjectMerger(self.document, self.judge, self.possible, self.parts_of).merge(literals)
        return [replace(part, dropped=part.dropped + dropped) for part in parts]

    def _array(self, literals: tuple[Literal, ...]) -> Iterator[ArrayPart]:
        counts = of_kind(literals, ItemCount)
        least = max((count.least for count in counts), default=0)
        most = min((count.most for count in counts if count.most is not None), default=None)
        singles, rests = of_kind(literals, Item), of_kind(literals, Items)
        length = max([0, *(single.index + 1 for single in singles), *(rest.start for rest in rests)])
        prefix = [self._item(index, singles, rests) for index in range(length)]
        for index, goal in enumerate(prefix):
            if not self.possible(goal):
                most, prefix = min(index, index if most is None else most), prefix[:index]
                break
        rest = self._item(max(length, 0), singles, rests)
        if not self.possible(rest):
            most = len(prefix) if most is None else min(most, len(prefix))
        part = ArrayPart(prefix, rest, least, most)
        self._count_items(part, literals)
        self._tell_items_apart(part, literals)
        if part.most is None or part.least <= part.most:
            yield part

    def _item(self, index: int, singles: list[Item], rests: list[Items]) -> Goal:
        goals = [single.goal for single in singles if single.index == index] + [rest.goal for rest in rests if rest.start <= index]
        return self.document.goal(*(obligation for goal in goals for obligation in goal))

    def _count_items(self, part: ArrayPart, literals: tuple[Literal, ...]) -> None:
        for counting in of_kind(literals, Contains):
            if not counting.goal:
                part.least = max(part.least, counting.start + counting.least)
                if counting.most is not None:
                    most = counting.start + counting.most
                    part.most = most if part.most is None else min(part.most, most)
            elif part.counter is None:
                [counted] = counting.goal
                part.counter = Counter(counting.start, counted, counting.least, counting.most, counting.origin)
            else:
                part.dropped.append(Dropped(counting.origin, "only one count of an array's items can be masked"))
        counter = part.counter
        if counter is None:
            return
        numbers = (part.least, part.most or 0, len(part.prefix), counter.start, counter.least, counter.most or 0)
        if max(numbers) > MAX_COUNTED:
            part.dropped.append(Dropped(counter.origin, f"items are counted up to {MAX_COUNTED} alone"))
            part.counter = None

    def _tell_items_apart(self, part: ArrayPart, literals: tuple[Literal, ...]) -> None:
        for unique in of_kind(literals, Unique):
            if not (unique.positive and part.most is not None and part.most <= 1):
                reason = "a mask cannot compare items" if unique.positive else "a mask cannot demand equal items"
                part.dropped.append(Dropped(unique.origin, reason))


def _candidates(literals: tuple[Literal, ...], type_: JsonType) -> list[object] | None:
    """The values that come into question, where that is a finite set."""
    listed = [literal for literal in of_kind(literals, Values) if literal.positive]
    if listed:
        return list(min(listed, key=lambda literal: len(literal.values)).values)
    inherent: dict[JsonType, list[object]] = {"null": [None], "boolean": [True, False]}
    return inherent.get(type_)


def _number(literals: tuple[Literal, ...]) -> Iterator[Part]:
    interval = Interval()
    for bound in of_kind(literals, Bound):
        interval = _bounded(interval, bound)
    integral = {literal.positive for literal in of_kind(literals, Integral)}
    if interval.is_empty or len(integral) > 1:
        return
    dropped = []
    multiple: Decimal | None = None
    for literal in of_kind(literals, Multiple):
        if literal.positive:
            multiple = literal.of if multiple is None else _common(multiple, literal.of)
        else:
            dropped.append(Dropped(literal.origin, "a mask cannot exclude multiples"))
    excluded = [decimal(value) for literal in of_kind(literals, Values) for value in literal.values]
    part = NumberPart([interval], next(iter(integral), None), multiple, dropped=dropped)
    if multiple is not None:
        yield from _multiples(part, excluded, literals)
        return
    if part.integral:
        part.intervals = [_integers(interval)]
    for number in excluded:
        if part.integral and not is_integral(number):
            continue
        part.intervals = [piece for interval in part.intervals for piece in interval.without(number)]
        if part.integral:
            part.intervals = [_integers(piece) for piece in part.intervals]
    part.intervals = [piece for piece in part.intervals if not piece.is_empty]
    if part.integral is False:
        part.intervals = [piece for piece in part.intervals if piece.low is None or piece.low != piece.high or not is_integral(piece.low)]
    if part.intervals:
        yield part


def _bounded(interval: Interval, bound: Bound) -> Interval:
    limit = interval.low if bound.lower else interval.high
    exclusive = interval.low_exclusive if bound.lower else interval.high_exclusive
    if limit is None or (bound.limit > limit if bound.lower else bound.limit < limit):
        limit, exclusive = bound.limit, bound.exclusive
    elif bound.limit == limit:
        exclusive = exclusive or bound.exclusive
    if bound.lower:
        return replace(interval, low=limit, low_exclusive=exclusive)
    return replace(interval, high=limit, high_exclusive=exclusive)


def _integers(interval: Interval) -> Interval:
    """The same integers between inclusive limits."""
    low, high = interval.low, interval.high
    if low is not None:
        up = low.to_integral_value(ROUND_CEILING)
        low = up + 1 if interval.low_exclusive and up == low else up
    if high is not None:
        down = high.to_integral_value(ROUND_FLOOR)
        high = down - 1 if interval.high_exclusive and down == high else down
    return Interval(low, False, high, False)


def _common(first: Decimal, second: Decimal) -> Decimal:
    """The smallest positive number that is a multiple of both."""
    one, another = Fraction(first), Fraction(second)
    common = Fraction(lcm(one.numerator * another.denominator, another.numerator * one.denominator), one.denominator * another.denominator)
    return Decimal(common.numerator) / Decimal(common.denominator)


def _multiples(part: NumberPart, excluded: list[Decimal], literals: tuple[Literal, ...]) -> Iterator[Part]:
    assert part.multiple is not None
    if part.integral:
        part.multiple = _common(part.multiple, Decimal(1))
    [interval] = part.intervals
    if interval.low is not None and interval.high is not None:
        first = (interval.low / part.multiple).to_integral_value(ROUND_CEILING)
        last = (interval.high / part.multiple).to_integral_value(ROUND_FLOOR)
        if last - first < MAX_ENUMERATED:
            numbers = [part.multiple * factor for factor in range(int(first), int(last) + 1)]
            kept = [
                number
                for number in numbers
                if _is_within(number, interval) and number not in excluded and part.integral in (None, is_integral(number))
            ]
            if kept:
                yield ValuesPart([_json_number(number) for number in kept], dropped=part.dropped)
            return
    places = -min(0, int(part.multiple.normalize().as_tuple().exponent))
    if places > MAX_PLACES or part.multiple.scaleb(places) > MAX_COEFFICIENT:
        reason = f"multiples of more than {MAX_COEFFICIENT:,} units of the last of at most {MAX_PLACES} places take too long to tell"
        part.dropped += [Dropped(literal.origin, reason) for literal in of_kind(literals, Multiple) if literal.positive]
        for rest in _number(tuple(literal for literal in literals if not isinstance(literal, Multiple))):
            yield replace(rest, dropped=rest.dropped + part.dropped)
        return
    if excluded:
        part.dropped += [Dropped(literal.origin, "numbers cannot be excluded beside multipleOf") for literal in of_kind(literals, Values)]
    if part.integral is False:
        if is_integral(part.multiple):
            return
        reason = "integers cannot be excluded beside multipleOf"
        part.dropped += [Dropped(literal.origin, reason) for literal in of_kind(literals, Integral)]
        part.integral = None
    between = _between_multiples(interval, part.multiple)
    low, high = (None if limit is None or not _is_double(limit) else limit for limit in (between.low, between.high))
    if (low, high) != (between.low, between.high):
        reason = "beside multipleOf, bounds are compared as doubles"
        part.dropped += [Dropped(literal.origin, reason) for literal in of_kind(literals, Bound)]
    part.intervals = [Interval(low, False, high, False)]
    yield part


def _between_multiples(interval: Interval, multiple: Decimal) -> Interval:
    """The same multiples between inclusive limits."""
    scaled = Interval(
        None if interval.low is None else interval.low / multiple,
        interval.low_exclusive,
        None if interval.high is None else interval.high / multiple,
        interval.high_exclusive,
    )
    factors = _integers(scaled)
    return Interval(
        None if factors.low is None else factors.low * multiple, False, None if factors.high is None else factors.high * multiple, False
    )


def _is_double(limit: Decimal) -> bool:
    """Whether a double holds a number, and each of its neighbours of so many digits."""
    return abs(limit) < 10**15 and len(limit.normalize().as_tuple().digits) <= 15


def _is_within(number: Decimal, interval: Interval) -> bool:
    if interval.low is not None and (number < interval.low or (interval.low_exclusive and number == interval.low)):
        return False
    return interval.high is None or (number < interval.high or (number == interval.high and not interval.high_exclusive))


def _json_number(number: Decimal) -> int | float:
    return int(number) if is_integral(number) else float(number)


def _string(literals: tuple[Literal, ...]) -> Iterator[StringPart]:
    lengths, patterns = of_kind(literals, Length), list(dict.fromkeys(of_kind(literals, Pattern)))
    reason = f"more than {MAX_PATTERNS} patterns of one string take too many states"
    part = StringPart(
        least=max((length.least for length in lengths), default=0),
        most=min((length.most for length in lengths if length.most is not None), default=None),
        patterns=[(pattern.regex, pattern.positive) for pattern in patterns[:MAX_PATTERNS]],
        excluded=[str(value) for literal in of_kind(literals, Values) for value in literal.values],
        whole=all(pattern.whole for pattern in patterns),
        dropped=[Dropped(pattern.origin, reason) for pattern in patterns[MAX_PATTERNS:]],
    )
    if part.most is None or part.least <= part.most:
        yield part
