"""Draw the lifecycle for the site: ``python .ci/draw_lifecycle.py package/dist/mermaid.min.js``.

The script is in the npm package ``mermaid`` (``npm pack mermaid``, then unpack it); the Chromium of PATH runs it. The
picture is kept with its Mermaid text, which a test compares, so that the site needs no script of 3 MB.
"""

import asyncio
import shutil
import sys
from html import escape
from pathlib import Path
from typing import Final

from playwright.async_api import async_playwright

from sessions.domain.lifecycle import lifecycle_diagram

PICTURE: Final = Path(__file__).parents[1] / "docs" / "images" / "lifecycle.svg"
_DRAW: Final = """async (text) => {
  const plain = { htmlLabels: false };
  mermaid.initialize({ startOnLoad: false, theme: 'neutral', fontFamily: 'system-ui, sans-serif',
    deterministicIds: true, ...plain, flowchart: plain, state: plain });
  return (await mermaid.render('lifecycle', text)).svg;
}"""


async def draw(script: str) -> str:
    """The picture, with the text that it was drawn from as its description."""
    diagram = lifecycle_diagram()
    async with (
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=shutil.which("chromium")) as browser,
    ):
        page = await browser.new_page()
        await page.add_script_tag(path=script)
        svg: str = await page.evaluate(_DRAW, diagram)
    tag, _, drawn = svg.partition(">")
    tag = tag.replace('style="', 'style="background: white; ')
    return f"{tag}><desc>{escape(diagram)}</desc>{drawn}\n"


if __name__ == "__main__":
    PICTURE.write_text(asyncio.run(draw(sys.argv[1])), encoding="utf-8")
