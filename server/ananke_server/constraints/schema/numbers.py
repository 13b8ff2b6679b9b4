"""Numbers: regular expressions for the decimals between two limits, exact at any precision.

A decimal is compared digit by digit: a longer integer part is larger, then the first digit that differs decides.
"""

from __future__ import annotations

from decimal import Decimal

from ananke_server.constraints.schema.parts import Interval

INTEGER = "-?(?:0|[1-9][0-9]*)"
DECIMAL = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
NUMBER = DECIMAL + "(?:[eE][+-]?[0-9]+)?"
"""Any JSON number. Those within limits are written without an exponent."""

_UNSIGNED = r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
_FRACTION = r"(?:\.[0-9]+)?"
_ZERO = r"0(?:\.0+)?"


def expression(interval: Interval, integral: bool | None) -> str:
    """The terminal expression of the numbers in an interval; ``integral``: integers, no integers, or both (None)."""
    terms = [f"/{INTEGER}/"] if integral else []
    if interval.low is not None:
        terms.append(f"/{_at_least(interval.low, interval.low_exclusive)}/")
    if interval.high is not None:
        terms.append(f"/{_at_most(interval.high, interval.high_exclusive)}/")
    if integral is False:
        # No exponents, which could make an integer of a fraction.
        terms += [f"/{DECIMAL}/", f"~/{INTEGER}(?:\\.0+)?/"]
    return " & ".join(terms or [f"/{NUMBER}/"])


def _at_least(limit: Decimal, exclusive: bool) -> str:
    if limit > 0 or (limit == 0 and exclusive):
        return _magnitude_at_least(limit, exclusive)
    if limit == 0:
        return f"(?:{_UNSIGNED}|-{_ZERO})"
    return f"(?:{_UNSIGNED}|-{_magnitude_at_most(limit, exclusive)})"


def _at_most(limit: Decimal, exclusive: bool) -> str:
    if limit < 0 or (limit == 0 and exclusive):
        return f"-{_magnitude_at_least(limit, exclusive)}"
    if limit == 0:
        return f"(?:-{_UNSIGNED}|{_ZERO})"
    return f"(?:-{_UNSIGNED}|{_magnitude_at_most(limit, exclusive)})"


def _magnitude_at_least(limit: Decimal, exclusive: bool) -> str:
    whole, fraction = _digits(limit)
    options = [f"[1-9][0-9]{{{len(whole)},}}{_FRACTION}"]
    for index, digit in enumerate(whole):
        if digit < "9":
            options.append(f"{whole[:index]}{_between(_next(digit), '9')}{_any_digits(len(whole) - index - 1)}{_FRACTION}")
    for index, digit in enumerate(fraction):
        if digit < "9":
            options.append(rf"{whole}\.{fraction[:index]}{_between(_next(digit), '9')}[0-9]*")
    if exclusive:
        options.append(rf"{whole}\.{fraction}[0-9]*[1-9][0-9]*")
    else:
        options.append(rf"{whole}\.{fraction}[0-9]*" if fraction else whole + _FRACTION)
    return f"(?:{'|'.join(options)})"


def _magnitude_at_most(limit: Decimal, exclusive: bool) -> str:
    whole, fraction = _digits(limit)
    options = []
    if len(whole) > 1:
        options.append(f"(?:0|[1-9][0-9]{{0,{len(whole) - 2}}}){_FRACTION}")
    for index, digit in enumerate(whole):
        lowest = "1" if index == 0 and len(whole) > 1 else "0"
        if digit > lowest:
            options.append(f"{whole[:index]}{_between(lowest, _previous(digit))}{_any_digits(len(whole) - index - 1)}{_FRACTION}")
    for index, digit in enumerate(fraction):
        if index:
            options.append(rf"{whole}\.{fraction[:index]}")
        if digit > "0":
            options.append(rf"{whole}\.{fraction[:index]}{_between('0', _previous(digit))}[0-9]*")
    if fraction:
        options.append(whole)
    if not exclusive:
        options.append(rf"{whole}\.{fraction}0*" if fraction else rf"{whole}(?:\.0+)?")
    # Below zero there is no magnitude.
    return f"(?:{'|'.join(options)})" if options else "[^\\s\\S]"


def _digits(limit: Decimal) -> tuple[str, str]:
    """The magnitude's digits before and after the point; arithmetic would round them to the context's precision."""
    whole, _, fraction = f"{limit.copy_abs():f}".partition(".")
    return whole, fraction.rstrip("0")


def _any_digits(count: int) -> str:
    return f"[0-9]{{{count}}}" if count else ""


def _between(low: str, high: str) -> str:
    return low if low == high else f"[{low}-{high}]"


def _next(digit: str) -> str:
    return chr(ord(digit) + 1)


def _previous(digit: str) -> str:
    return chr(ord(digit) - 1)
