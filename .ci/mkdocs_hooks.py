"""What the site shows otherwise than a forge does: files outside docs/, and the diagram of the lifecycle."""

import posixpath
import re
from typing import Any, Final

_LINK: Final = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)#]+)\)")
_DIAGRAM: Final = re.compile(r"^```mermaid\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_DRAWN: Final = '![The lifecycle, drawn](images/lifecycle.svg)\n\n??? note "As Mermaid"\n\n'


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """A link out of docs/ becomes its path, since the site has no such file; a Mermaid block becomes a picture."""
    folder = posixpath.dirname(page.file.src_uri)

    def outside(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, found[2] + found[3]))
        if target.startswith("docs/"):
            return found[0]
        return f"`{target}`" if found[1] == posixpath.basename(target) else f"{found[1]} (`{target}`)"

    def drawn(found: re.Match[str]) -> str:
        fenced = f"```text\n{found[1]}```".splitlines()
        return _DRAWN + "\n".join(f"    {line}" for line in fenced)

    return _LINK.sub(outside, _DIAGRAM.sub(drawn, markdown))
