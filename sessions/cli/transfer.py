"""The commands ``import`` and ``export``: the relational table of the same name, into sessions and back."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Final, TextIO

import typer

from sessions.cli import options, rendering
from sessions.cli.desk import Desk, at_desk
from sessions.cli.documents import every_document
from sessions.cli.ending import DONE, FOUND, CommandRefused
from sessions.cli.importer import Candidate, Importer, Tally
from sessions.cli.rendering import counted, emit, note, say
from sessions.cli.rows import Format, Line, Rejects, UnfitValue, format_of, lines_of, open_private, row_of, writer_of
from sessions.domain.errors import SessionDamaged
from sessions.store.reading import to_snapshot
from sessions.store.relational import UnfitRow, cells_of, document_of, is_changed

_BATCH: Final = 500
_NO_FILE: Final = Path("-")

Source = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", exists=True, dir_okay=False, readable=True, help="JSON lines or CSV.", show_default=False
    ),
]
Target = Annotated[
    Path, typer.Argument(metavar="FILE", dir_okay=False, help="- is standard output.", show_default=False)
]
FileFormat = Annotated[
    Format | None,
    typer.Option("--format", help="Default: csv for a name that ends so, else jsonl.", show_default=False),
]
Rejected = Annotated[
    Path | None,
    typer.Option(
        "--rejected",
        metavar="FILE",
        dir_okay=False,
        help="Where the bad rows go, as JSON lines with line and reason. Default: FILE.rejected.jsonl.",
        show_default=False,
    ),
]
AssumeUtc = Annotated[bool, typer.Option("--assume-utc", help="Take moments without a zone for UTC.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]


def _candidate(line: Line, rejects: Rejects, *, assume_utc: bool) -> Candidate | None:
    """The row if it can be stored; else it is among the rejects."""
    if line.values is None:
        rejects.add(line, line.fault)
        return None
    try:
        row = row_of(line.values, assume_utc=assume_utc)
        document = document_of(row)
    except (UnfitValue, UnfitRow) as error:
        rejects.add(line, str(error))
        return None
    return Candidate(line, document, is_changed(row, document))


async def _import(desk: Desk, opened: IO[bytes], kind: Format, rejects: Rejects, *, assume_utc: bool) -> Tally:
    tally, batch = Tally(), list[Candidate]()
    importer = Importer(desk, rejects, tally)
    with rendering.progress("importing", os.fstat(opened.fileno()).st_size) as advance:
        for line in lines_of(opened, kind):
            if candidate := _candidate(line, rejects, assume_utc=assume_utc):
                batch.append(candidate)
            if len(batch) == _BATCH:
                await importer.take(batch)
                batch.clear()
                done = tally.imported + tally.present + rejects.number
                advance(line.position, f"{counted(done, 'row')}, {rejects.number:,} rejected")
        await importer.take(batch)
    return tally


def _tell_import(tally: Tally, rejects: Rejects, *, as_json: bool) -> int:
    if as_json:
        emit(
            {
                "imported": tally.imported,
                "changed": tally.changed,
                "present": tally.present,
                "rejected": rejects.number,
                "rejected_file": str(rejects.path) if rejects.number else None,
            }
        )
    else:
        say(f"{counted(tally.imported, 'row')} imported, {tally.present:,} there already, {rejects.number:,} rejected.")
        if tally.changed:
            say(f"Of these {tally.changed:,} were rerunning, or held what their status has no use for.")
        if rejects.number:
            say(f"The rejected rows, each with its line and the reason: {rejects.path}")
    return FOUND if rejects.number else DONE


def import_rows(
    source: Source,
    *,
    uri: options.Uri = None,
    database: options.DatabaseName = None,
    as_json: options.AsJson = False,
    kind: FileFormat = None,
    rejected: Rejected = None,
    assume_utc: AssumeUtc = False,
) -> int:
    """Read rows of the relational table; may be stopped and run again."""
    chosen = format_of(source, kind)
    rejects_path = rejected or source.with_name(f"{source.name}.rejected.jsonl")
    if rejects_path.resolve() == source.resolve():
        raise CommandRefused("--rejected names the file that is read")

    async def work(desk: Desk) -> int:
        with source.open("rb") as opened, Rejects(rejects_path) as rejects:
            tally = await _import(desk, opened, chosen, rejects, assume_utc=assume_utc)
        return _tell_import(tally, rejects, as_json=as_json)

    return at_desk(uri, database, work, writes=True)


@contextmanager
def _target(path: Path) -> Iterator[TextIO]:
    """A file that has its name once it is whole; standard output as it is."""
    if path == _NO_FILE:
        yield sys.stdout
        sys.stdout.flush()
        return
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with open_private(unfinished) as opened:
            yield opened
    except OSError as error:
        raise CommandRefused(f"{path} cannot be written: {error.strerror}") from error
    unfinished.replace(path)


async def _export(desk: Desk, opened: TextIO, kind: Format) -> tuple[int, int]:
    """How many rows were written, and how many documents are damaged."""
    write, written, damaged = writer_of(opened, kind), 0, 0
    async for raw in every_document(desk, "exporting", with_history=False):
        try:
            write(cells_of(to_snapshot(raw)))
            written += 1
        except SessionDamaged as error:
            note(f"left out: {error}")
            damaged += 1
    return written, damaged


def export_rows(
    target: Target,
    *,
    uri: options.Uri = None,
    database: options.DatabaseName = None,
    as_json: options.AsJson = False,
    kind: FileFormat = None,
    overwrite: Overwrite = False,
) -> int:
    """Write all sessions as rows of the relational table."""
    if target != _NO_FILE and target.exists() and not overwrite:
        raise CommandRefused(f"{target} exists: name another file, or pass --overwrite")

    async def work(desk: Desk) -> int:
        with _target(target) as opened:
            written, damaged = await _export(desk, opened, format_of(target, kind))
        if target == _NO_FILE:
            note(f"{counted(written, 'row')} written.")
        elif as_json:
            emit({"written": written, "damaged": damaged})
        else:
            say(f"{counted(written, 'row')} written to {target}.")
        if damaged:
            note(f"{counted(damaged, 'document')} left out as damaged.")
        return FOUND if damaged else DONE

    return at_desk(uri, database, work)
