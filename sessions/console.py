"""The console of this package's commands."""

from typing import TextIO

from rich.console import Console


def console_for(stream: TextIO, *, width_elsewhere: int, widest: int | None = None) -> Console:
    """Colours on a terminal; plain text of a fixed width elsewhere, whatever the environment says.

    Names may be anybody's: nothing that is printed is read as markup or as the code of an emoji.

    Args:
        stream: Where it prints.
        width_elsewhere: Columns if it is no terminal.
        widest: At most so many columns on a terminal.
    """
    console = Console(
        file=stream,
        # FORCE_COLOR in the environment would put escape codes into a log.
        force_terminal=None if stream.isatty() else False,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=not stream.isatty(),
    )
    if not stream.isatty():
        console.width = width_elsewhere
    elif widest is not None:
        console.width = min(console.width, widest)
    return console
