"""A bar chart as SVG, readable on light and on dark pages."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH, _LABELS, _VALUES = 760, 250, 130
_BAR, _STEP, _TITLE, _GAP = 18, 28, 30, 24
# Grey and blue of middle brightness: one picture for both kinds of page.
# From here on figures are printed without decimals.
_WHOLE_NUMBERS_FROM = 100
_TEXT, _TAP, _OTHER = "#6e7781", "#2f81f7", "#8b949e"


class Panel(NamedTuple):
    """Bars of one scale.

    Attributes:
        title: What they show.
        bars: The name and the figure of each.
        unit: What stands behind each figure.
    """

    title: str
    bars: Sequence[tuple[str, float]]
    unit: str


def draw(title: str, panels: Sequence[Panel], footer: Sequence[str]) -> str:
    """Draw panels below each other.

    Args:
        title: Said to those who cannot see the picture.
        panels: The panels; bars whose name begins with `tap` stand out.
        footer: Lines that stand below: machine, date, and what else is to be known.

    Returns:
        The SVG.
    """
    shapes: list[str] = []
    y = 0
    for panel in panels:
        y += _TITLE
        shapes.append(_text(0, y - 10, panel.title, weight=600))
        longest = max(value for _, value in panel.bars)
        for name, value in panel.bars:
            width = max(2, round((_WIDTH - _LABELS - _VALUES) * value / longest))
            own = name.startswith("tap")
            middle = y + _BAR - 5
            shapes += [
                _text(_LABELS - 10, middle, name, anchor="end", weight=600 if own else 400),
                _bar(y, width, _TAP if own else _OTHER),
                _text(_LABELS + width + 8, middle, f"{_figure(value)} {panel.unit}"),
            ]
            y += _STEP
        y += _GAP
    for line in footer:
        shapes.append(_text(0, y, line, size=12))
        y += 16
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img"',
            ' font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
            f"<title>{escape(title)}</title>",
            *shapes,
            "</svg>\n",
        )
    )


def _bar(y: int, width: int, colour: str) -> str:
    return f'<rect x="{_LABELS}" y="{y}" width="{width}" height="{_BAR}" rx="2" fill="{colour}"/>'


def _text(
    x: int, y: int, text: str, *, anchor: str = "start", weight: int = 400, size: int = 14
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="{_TEXT}">{escape(text)}</text>'
    )


def _figure(value: float) -> str:
    return f"{value:,.1f}" if value < _WHOLE_NUMBERS_FROM else f"{value:,.0f}"
