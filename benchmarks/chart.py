"""Bar chart as SVG, readable on light and on dark pages."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.measure import Result

_WIDTH, _LABEL_WIDTH, _VALUE_WIDTH = 800, 290, 130
_BAR_HEIGHT, _BAR_STEP, _TITLE_HEIGHT, _PANEL_GAP, _FOOTER_STEP = 18, 28, 30, 24, 16
_MIN_BAR_WIDTH = 2
# Medium brightness, so that one picture suits both colour schemes.
_TEXT_COLOUR, _TAP_COLOUR, _OTHER_COLOUR = "#6e7781", "#2f81f7", "#8b949e"
# Values from here on are printed without decimals.
_MIN_WHOLE_NUMBER = 100


class Bar(NamedTuple):
    """A bar of a panel.

    Attributes:
        label: Name of the program.
        seconds: Its figure.
        is_tap: Whether to highlight it.
    """

    label: str
    seconds: float
    is_tap: bool


class Panel(NamedTuple):
    """Bars with a common scale.

    Attributes:
        title: Heading.
        bars: The bars, from top to bottom.
    """

    title: str
    bars: Sequence[Bar]


def cpu_bars(results: Mapping[str, Result]) -> list[Bar]:
    """Return bars of CPU seconds per million contacts, with the tap's highlighted."""
    return [
        Bar(name, result.cpu_per_million, is_tap=name.startswith("tap"))
        for name, result in results.items()
    ]


def render_chart(title: str, panels: Sequence[Panel], footer: Sequence[str]) -> str:
    """Draw panels below each other.

    Args:
        title: Text alternative for screen readers.
        panels: The panels.
        footer: Lines below the panels.

    Returns:
        The SVG document.
    """
    shapes: list[str] = []
    y = 0
    for panel in panels:
        y += _TITLE_HEIGHT
        shapes.append(_text(0, y - 10, panel.title, weight=600))
        longest = max(bar.seconds for bar in panel.bars)
        for bar in panel.bars:
            full_width = _WIDTH - _LABEL_WIDTH - _VALUE_WIDTH
            width = max(_MIN_BAR_WIDTH, round(full_width * bar.seconds / longest))
            baseline = y + _BAR_HEIGHT - 5
            weight = 600 if bar.is_tap else 400
            shapes += [
                _text(_LABEL_WIDTH - 10, baseline, bar.label, anchor="end", weight=weight),
                _rectangle(y, width, _TAP_COLOUR if bar.is_tap else _OTHER_COLOUR),
                _text(_LABEL_WIDTH + width + 8, baseline, _format_seconds(bar.seconds)),
            ]
            y += _BAR_STEP
        y += _PANEL_GAP
    for line in footer:
        shapes.append(_text(0, y, line, size=12))
        y += _FOOTER_STEP
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img"',
            ' font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
            f"<title>{escape(title)}</title>",
            *shapes,
            "</svg>\n",
        )
    )


def _rectangle(y: int, width: int, colour: str) -> str:
    return (
        f'<rect x="{_LABEL_WIDTH}" y="{y}" width="{width}" height="{_BAR_HEIGHT}" rx="2" '
        f'fill="{colour}"/>'
    )


def _text(
    x: int, y: int, text: str, *, anchor: str = "start", weight: int = 400, size: int = 14
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="{_TEXT_COLOUR}">{escape(text)}</text>'
    )


def _format_seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < _MIN_WHOLE_NUMBER else f"{seconds:,.0f} s"
