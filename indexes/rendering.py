"""What the command line shows: tables for people, JSON for programs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Task as BarTask
from rich.table import Table
from rich.text import Text

from indexes.actions import Action, Blocked, Step
from indexes.applier import Applied
from indexes.conflicts import Conflict
from indexes.planner import IndexStanding, Plan, Standing, Use
from indexes.progress import Progress as BuildProgress
from indexes.server import in_utc
from indexes.session_collection.explaining import Explanation
from indexes.session_collection.superseding import Resolution, can_resolve
from sessions.store.index_definitions import in_words

WIDTH_WITHOUT_TERMINAL: Final = 140
_STYLES: Final[Mapping[Standing, str]] = {
    Standing.MISSING: "red",
    Standing.EQUAL: "green",
    Standing.DIFFERENT: "red",
    Standing.REFUSED: "red",
    Standing.BUILDING: "yellow",
    Standing.UNDECLARED: "yellow",
    Standing.BRIDGE: "yellow",
}
_DONE: Final[Mapping[Action, str]] = {
    Action.WAIT: "waited for",
    Action.BUILD: "built",
    Action.BUILD_BRIDGE: "built bridge",
    Action.DROP: "dropped",
    Action.DROP_BRIDGE: "dropped bridge",
    Action.UNHIDE: "unhid",
    Action.HIDE: "hid",
    Action.SET_TTL: "set the TTL of",
    Action.DEFUSE_TTL: "defused the TTL of",
    Action.MAKE_UNIQUE: "made unique",
    Action.CANCEL_PREPARE_UNIQUE: "cancelled prepareUnique of",
}


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _size(size: int | None) -> str:
    if size is None:
        return "unknown"
    amount = float(size)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:  # noqa: PLR2004 - each unit is a thousand of the one before
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def _is_there(index: IndexStanding) -> bool:
    return index.standing is not Standing.MISSING and (index.standing is not Standing.REFUSED or index.use != Use())


def _used(index: IndexStanding) -> str:
    if not _is_there(index):
        return ""
    return "unknown" if index.use.operations is None else f"{index.use.operations:,} times"


def _show_collection(console: Console, title: str, indexes: Sequence[IndexStanding]) -> None:
    console.print(Text(title, style="bold"))
    table = _table("index", "state", "keys", "size", "used")
    for index in indexes:
        state = Text(index.standing, style=_STYLES[index.standing])
        size = _size(index.use.size) if _is_there(index) else ""
        table.add_row(index.name, state, in_words(index.keys), size, _used(index))
    console.print(table)
    console.print()
    if counted := [index.use.since for index in indexes if index.use.since is not None]:
        console.print(f"Use is counted since {min(counted):%Y-%m-%d %H:%M} UTC.")


def show_plan(console: Console, plan: Plan) -> None:
    """Print how each index compares, what would be done, and what stands in the way."""
    for collection in dict.fromkeys(index.collection for index in plan.indexes):
        ours = [index for index in plan.indexes if index.collection == collection]
        _show_collection(console, f"{plan.database}.{collection}", ours)
    counts = [f"{len(plan.named(standing))} {standing}" for standing in Standing if plan.named(standing)]
    console.print(", ".join(counts) + "." if counts else "Nothing is declared.")
    _show_differences(console, plan.named(Standing.DIFFERENT))
    if plan.steps:
        console.print(Text("apply would:", style="bold"))
        for number, step in enumerate(plan.steps, start=1):
            console.print(Text(f"{number:>3}. {step.action} {_of(step)} ({step.why})"))
    else:
        console.print("No change: there is nothing for apply to do.")
    show_blocked(console, plan.blocked)
    show_conflicts(console, plan.conflicts)


def _of(one: Step | Blocked) -> str:
    """An index with its collection, since a run may be about several."""
    return one.collection if one.index is None else f"{one.index} of {one.collection}"


def _show_differences(console: Console, indexes: Iterable[IndexStanding]) -> None:
    for index in indexes:
        for difference in index.differences:
            console.print(Text(f"{index.collection}: {difference.text}", style="red"))


def show_blocked(console: Console, blocked: Sequence[Blocked]) -> None:
    """Print what apply leaves as it is."""
    for one in blocked:
        console.print(Text(f"left alone: {_of(one)}: {one.reason}", style="yellow"))


def show_conflicts(console: Console, conflicts: Sequence[Conflict]) -> None:
    """Print the documents that violate a unique index."""
    for conflict in conflicts:
        console.print(
            Text(
                f"conflict: {conflict.documents} documents of {conflict.collection} share {conflict.groups} "
                f"keys of the unique index {conflict.index}; the first of them:",
                style="bold red",
            )
        )
        for document in conflict.first_ids:
            console.print(Text(f"    {document}"))
    if conflicts:
        resolution = (
            f", or let apply --resolve {Resolution.SUPERSEDE_OLDER} end the older sessions of each conversation"
            if can_resolve(conflicts)
            else ""
        )
        console.print(f"apply refuses to build over them: put them right first{resolution}.")


def show_applied(console: Console, applied: Applied) -> None:
    """Print how a run ended; its steps were shown while it ran."""
    if applied.superseded:
        console.print(f"{len(applied.superseded)} older sessions were superseded (status ignored).")
    for one in applied.refused:
        console.print(Text(f"refused: {_of(one)}: {one.reason}", style="bold red"))
    show_blocked(console, applied.plan.blocked)
    show_conflicts(console, applied.conflicts)
    if applied.conflicts:
        console.print(Text("Nothing was built over these documents.", style="bold red"))
    elif not applied.plan.is_as_declared:
        console.print(Text("Not all is as declared: see plan.", style="bold red"))
    elif not applied.steps:
        console.print(Text("No change: all is as declared.", style="green"))
    else:
        console.print(Text(f"{len(applied.steps)} steps done: all is as declared.", style="green"))


def show_check(console: Console, plan: Plan) -> None:
    """Print one line, and one for each difference and for what cannot become as declared."""
    _show_differences(console, (index for index in plan.indexes if index.is_declared))
    show_blocked(console, plan.blocked)
    declared = sum(1 for index in plan.indexes if index.is_declared)
    if plan.is_as_declared:
        console.print(Text(f"All {declared} declared indexes are present, equal and visible.", style="green"))
    else:
        equal = len(plan.named(Standing.EQUAL))
        console.print(Text(f"{equal} of {declared} declared indexes are as they should be.", style="bold red"))


def show_explanation(console: Console, explanation: Explanation) -> None:
    """Print what each query costs, then what is wrong."""
    table = _table("query", "index", "keys", "documents", "sort")
    for query in explanation.queries:
        table.add_row(
            Text(query.query, style="red" if query.problems else ""),
            ", ".join(query.indexes) or "none",
            f"{query.keys_per_document:g}",
            f"{query.documents_per_document:g}",
            "in memory" if query.sorts else "no",
        )
    console.print(table)
    console.print("Keys and documents are those examined for each document returned.")
    for query in explanation.queries:
        for problem in query.problems:
            console.print(Text(f"{query.query}: {problem}", style="bold red"))
    if explanation.is_fine:
        console.print(Text(f"All {len(explanation.queries)} queries are served by their indexes.", style="green"))


# --- JSON -----------------------------------------------------------------------------------------------------


def as_json(value: Plan | Applied | Explanation) -> str:
    """The same for programs."""
    match value:
        case Plan():
            told = _plan_values(value)
        case Applied():
            told = _applied_values(value)
        case Explanation():
            told = _explanation_values(value)
    return json.dumps(told, indent=2, default=str)


def _step_values(step: Step) -> dict[str, Any]:
    return {"collection": step.collection, "action": step.action, "index": step.index, "why": step.why}


def _index_values(index: IndexStanding) -> dict[str, Any]:
    return {
        "collection": index.collection,
        "name": index.name,
        "keys": [[name, way] for name, way in index.keys],
        "state": index.standing,
        "declared": index.is_declared,
        "differences": [{"aspect": found.aspect, "text": found.text} for found in index.differences],
        "size": index.use.size,
        "use": "unknown" if index.use.operations is None else index.use.operations,
        "since": None if index.use.since is None else in_utc(index.use.since).isoformat(),
    }


def _conflict_values(conflict: Conflict) -> dict[str, Any]:
    return {
        "collection": conflict.collection,
        "index": conflict.index,
        "documents": conflict.documents,
        "groups": conflict.groups,
        "first_ids": list(conflict.first_ids),
    }


def _blocked_values(blocked: Sequence[Blocked]) -> list[dict[str, Any]]:
    return [{"collection": one.collection, "index": one.index, "reason": one.reason} for one in blocked]


def _plan_values(plan: Plan) -> dict[str, Any]:
    return {
        "database": plan.database,
        "as_declared": plan.is_as_declared,
        "indexes": [_index_values(index) for index in plan.indexes],
        "steps": [_step_values(step) for step in plan.steps],
        "conflicts": [_conflict_values(conflict) for conflict in plan.conflicts],
        "blocked": _blocked_values(plan.blocked),
    }


def _applied_values(applied: Applied) -> dict[str, Any]:
    return {
        "done": [_step_values(step) for step in applied.steps],
        "refused": _blocked_values(applied.refused),
        "superseded": list(applied.superseded),
        "conflicts": [_conflict_values(conflict) for conflict in applied.conflicts],
        "plan": _plan_values(applied.plan),
    }


def _explanation_values(explanation: Explanation) -> dict[str, Any]:
    return {
        "database": explanation.database,
        "fine": explanation.is_fine,
        "queries": [
            {
                "query": query.query,
                "indexes": list(query.indexes),
                "keys": query.keys,
                "documents": query.documents,
                "returned": query.returned,
                "keys_per_document": query.keys_per_document,
                "documents_per_document": query.documents_per_document,
                "sorts_in_memory": query.sorts,
                "problems": list(query.problems),
            }
            for query in explanation.queries
        ],
    }


# --- while it runs --------------------------------------------------------------------------------------------


class _RateColumn(ProgressColumn):
    """The speed of the present phase."""

    def render(self, task: BarTask) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


class Teller:
    """Shows the progress of a run: a line for each step, and on a terminal a bar for each build."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}", markup=False),
            _RateColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar: TaskID | None = None
        self._phase = ""
        self._has_waited = False

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, progress: BuildProgress) -> None:
        """Show one report."""
        if progress.step is None:
            if not self._has_waited:
                self._console.print("Another apply is at work on this database: waiting for it to end.")
            self._has_waited = True
            return
        if progress.ended:
            self._remove_bar()
            done = f"{_DONE[progress.step.action]} {_of(progress.step)}"
            took = str(timedelta(seconds=round(progress.elapsed))) if progress.elapsed >= 1 else ""
            self._console.print(Text(f"{done} ({progress.step.why})" + (f" in {took}" if took else "")))
        elif self._console.is_terminal:
            self._show_bar(progress, progress.step)

    def _remove_bar(self) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
        self._bar, self._phase = None, ""

    def _show_bar(self, progress: BuildProgress, step: Step) -> None:
        if self._bar is None or (progress.phase and progress.phase != self._phase):
            # A new bar for each phase, else rate and time left would include the phase before.
            self._remove_bar()
            self._phase = progress.phase
            self._bar = self._bars.add_task(f"{step.action} {_of(step)}", total=None, said="")
        said = f"{progress.phase} " if progress.phase else ""
        if progress.done is not None and progress.total is not None:
            said += f"{progress.done:,}/{progress.total:,}"
        else:
            said += f"{progress.elapsed:.0f} s"
        self._bars.update(self._bar, completed=progress.done or 0, total=progress.total, said=said)
