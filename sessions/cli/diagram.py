"""The command ``diagram``: the lifecycle as Mermaid or as SVG, both drawn from the table that the code obeys."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Final

import typer

from sessions.cli.ending import DONE
from sessions.domain.lifecycle import ALL, ENDED, INITIAL, INTERCEPTING, LIFECYCLE, SessionStatus, lifecycle_diagram

_BOX: Final = (190, 44)
_PLACES: Final[Mapping[SessionStatus, tuple[int, int]]] = {
    # The middle of each box: work goes down the left, the ends stand on the right.
    SessionStatus.WAITING_USER_REPLY: (150, 70),
    SessionStatus.RERUNNING: (150, 220),
    SessionStatus.READY_PREVIEW: (150, 370),
    SessionStatus.IGNORED: (610, 70),
    SessionStatus.EXPIRED: (610, 170),
    SessionStatus.FAILED: (610, 270),
    SessionStatus.APPLIED: (610, 370),
}
_SIZE: Final = (740, 420)
_STYLE: Final = """
  svg { background: #fff; color: #1f2933 }
  .box { fill: #eef2f6; stroke: currentColor } .intercepts { fill: #fde9b8 } .ended { fill: #fff }
  .step { fill: none; stroke: currentColor; stroke-width: 1.2 }
  text { font: 14px system-ui, sans-serif; fill: currentColor; text-anchor: middle }
  .note { font-size: 12px; text-anchor: start }
  @media (prefers-color-scheme: dark) {
    svg { background: #14181d; color: #d7dde4 }
    .box { fill: #28313b } .intercepts { fill: #5c4813 } .ended { fill: #14181d }
  }
"""
_ARROW: Final = (
    '<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M 0 0 L 8 4 L 0 8 z" fill="currentColor"/></marker></defs>'
)
_LEGEND: Final = "A dot: sessions begin there. Yellow: chat is intercepted. Right: ended."


class Format(StrEnum):
    """How the lifecycle is drawn."""

    MERMAID = "mermaid"
    SVG = "svg"


def _path(curve: str) -> str:
    return f'<path class="step" marker-end="url(#to)" d="{curve}"/>'


def _step(here: SessionStatus, there: SessionStatus) -> str:
    (x, y), (to_x, to_y), (wide, high) = _PLACES[here], _PLACES[there], _BOX
    if here is there:
        side = x - wide // 2
        return _path(f"M {side} {y - 10} C {side - 44} {y - 30}, {side - 44} {y + 30}, {side} {y + 10}")
    if x == to_x:
        # Neighbours, with a lane for each direction.
        way = 1 if to_y > y else -1
        lane = x - 24 * way
        begin, end = y + way * high // 2, to_y - way * (high // 2 + 2)
        return _path(f"M {lane} {begin} L {lane} {end}")
    begin, end = x + wide // 2, to_x - wide // 2 - 2
    # Each step leaves and arrives at a height of its own, so that those of one box can be told apart.
    leaves = y + (to_y - 220) * high // 500
    arrives = to_y + (y - 220) * high // 500
    middle = (begin + end) // 2
    return _path(f"M {begin} {leaves} C {middle} {leaves}, {middle} {arrives}, {end} {arrives}")


def _boxes() -> Iterator[str]:
    wide, high = _BOX
    for status in ALL:
        x, y = _PLACES[status]
        kind = "box intercepts" if status in INTERCEPTING else "box ended" if status in ENDED else "box"
        place = f'x="{x - wide // 2}" y="{y - high // 2}" width="{wide}" height="{high}" rx="8"'
        yield f"<g><title>{LIFECYCLE[status].entered_when}</title>"
        yield f'<rect class="{kind}" {place}/><text x="{x}" y="{y + 5}">{status}</text></g>'
        if status in INITIAL:
            top = y - high // 2
            yield f'<circle cx="{x}" cy="{top - 22}" r="5" fill="currentColor"/>' + _path(
                f"M {x} {top - 17} L {x} {top - 2}"
            )


def lifecycle_svg() -> str:
    """The table as a picture that stands alone: no script, no font, nothing from elsewhere."""
    width, height = _SIZE
    steps = [_step(here, there) for here in ALL for there in ALL if there in LIFECYCLE[here].leads_to]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    title = "<title>The lifecycle of an active schedule session</title>"
    note = f'<text class="note" x="20" y="{height - 8}">{_LEGEND}</text>'
    return "\n".join([head, title, f"<style>{_STYLE}</style>", _ARROW, *steps, *_boxes(), note, "</svg>"])


def diagram(
    *,
    kind: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.MERMAID,
) -> int:
    """Print the lifecycle as a diagram: which status leads to which."""
    typer.echo(lifecycle_svg() if kind is Format.SVG else lifecycle_diagram())
    return DONE
