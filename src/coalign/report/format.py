"""Numbers as a reader wants them: three significant figures, true minus signs, units that fit the size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coalign.report.model import Estimate, Unit

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"


def number(value: float | str | None, unit: Unit = "number") -> str:
    """A value in its unit; text stays as it is; what is missing or not finite is a dash."""
    if isinstance(value, str):
        return value
    if value is None or not math.isfinite(value):
        return MISSING
    text = _FORMATS[unit](abs(value))
    return f"{MINUS}{text}" if value < 0 and _has_digits(text) else text


def difference_texts(estimate: Estimate, unit: Unit = "number") -> tuple[str, str]:
    """A difference and its interval with as many digits as the largest of the three needs.

    Always with a sign; fractions differ in percentage points (pp). Without an interval the second text is empty.
    """
    digits = _decimals(max(map(abs, estimate.measured), default=0.0))
    value = _signed(estimate.value, unit, digits)
    if estimate.interval is None:
        return value, ""
    low, high = (_signed(end, unit, digits).removesuffix(" pp") for end in estimate.interval)
    return value, f"[{low}, {high}]"


def interval_text(estimate: Estimate, unit: Unit = "number") -> str:
    """`[low, high]`, or nothing where there is no interval."""
    ends = estimate.interval
    if ends is None:
        return ""
    if unit == "number" and 0.001 <= max(map(abs, ends)) < 1e7:
        digits = _three_digits(max(map(abs, ends)))
        return f"[{', '.join(f'{end:,.{digits}f}'.replace('-', MINUS) for end in ends)}]"
    return f"[{', '.join(number(end, unit).removesuffix('%') for end in ends)}]"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 2.5, 5 times a power of ten) inside [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def tick_texts(values: Sequence[float], unit: Unit = "number", *, log: bool = False) -> list[str]:
    """Labels of ticks: all with the decimals that their spacing needs."""
    factor, suffix = (100.0, "%") if unit == "percent" else (1.0, "")
    scaled = [float(f"{value * factor:.12g}") for value in values]
    digits = next((digits for digits in range(7) if all(round(one, digits) == one for one in scaled)), None)
    if log or digits is None or max(map(abs, scaled), default=0) >= 1e7:
        return [_short(one) + suffix for one in scaled]
    return [f"{one:,.{digits}f}{suffix}".replace("-", MINUS) for one in scaled]


def _short(value: float) -> str:
    """`1e−5` rather than `1e-05`."""
    mantissa, _, exponent = f"{value:g}".replace("-", MINUS).partition("e")
    return (
        f"{mantissa}e{exponent.replace('+', '').replace(f'{MINUS}0', MINUS).lstrip('0')}"
        if exponent
        else mantissa
    )


def _signed(value: float | None, unit: Unit, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    text = (
        f"{size * 100:.1f} pp"
        if unit == "percent"
        else f"{size:,.{digits}f}"
        if unit == "number"
        else number(size, unit)
    )
    return f"{'+' if value > 0 else MINUS}{text}" if _has_digits(text) else text


def _decimals(largest: float) -> int:
    """Two significant digits below ten, one decimal below a hundred, none above."""
    if largest == 0:
        return 0
    return 0 if largest >= 100 else 1 if largest >= 1 else 1 - math.floor(math.log10(largest))


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if value < 0.001 or value >= 1e7:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{exponent[0].replace('-', MINUS).replace('+', '')}{int(exponent[1:])}"
    if value >= 1000:
        return f"{value:,.0f}"
    digits = _three_digits(value)
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text and float(text) == round(value) else text


def _three_digits(value: float) -> int:
    """Decimals that show three significant digits."""
    return max(0, 2 - math.floor(math.log10(value)))


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _bytes(value: float) -> str:
    for name in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {name}"
        value /= 1024
    return f"{value:.2f} GiB"


def _has_digits(text: str) -> bool:
    return any(character in "123456789" for character in text)


_FORMATS = {
    "number": _number,
    "percent": lambda value: f"{value * 100:.1f}%",
    "integer": lambda value: f"{value:,.0f}",
    "seconds": _seconds,
    "bytes": _bytes,
}
