"""The lifecycle as a picture: every status and every step of the table, and nothing from elsewhere."""

import xml.etree.ElementTree as ET

from sessions.domain.lifecycle import ALL, INITIAL, LIFECYCLE, lifecycle_diagram
from tests.support.sessions_command import run_here

SVG = "{http://www.w3.org/2000/svg}"


def test_mermaid() -> None:
    """What README shows."""
    told = run_here("diagram")
    assert (told.status, told.out, told.err) == (0, lifecycle_diagram() + "\n", "")


def test_svg() -> None:
    """It is well-formed, has each status once and a path for each step and each beginning, and refers to nothing."""
    told = run_here("diagram", "--format", "svg")
    drawn = ET.fromstring(told.out)  # noqa: S314 - our own
    assert [text.text for text in drawn.iterfind(f"{SVG}g/{SVG}text")] == list(ALL)
    steps = [path for path in drawn.iter(f"{SVG}path") if path.get("class") == "step"]
    assert len(steps) == sum(len(rule.leads_to) for rule in LIFECYCLE.values()) + len(INITIAL)
    assert len({path.get("d") for path in steps}) == len(steps)
    assert "http" not in told.out.replace("http://www.w3.org/2000/svg", "")
