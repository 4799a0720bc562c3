"""Photos on disk in, restored photos on disk out, through a gateway in this process.

A bad file does not stop the others: each ends as an `Outcome` that says what became of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.core.errors import InvalidOption, NotFound, QueueFull, ServiceError, check_upload_bytes, forget_trace
from service.core.suffixes import SUFFIX_OF, SUFFIXES, result_names
from service.core.tasks import end_tasks
from service.core.types import OutputFormat, Report, Restoration, RestoreOptions, Upload
from service.gateway import Gateway
from service.local.results import ends_everything, write_result
from service.local.tree import real, walk


@dataclass(frozen=True, slots=True)
class FileTask:
    """One photo and where its result goes; the result's suffix decides its encoding."""

    source: Path
    target: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task: a report, or the error."""

    task: FileTask
    report: Report | None = None
    error: ServiceError | None = None


def plan_files(
    source: Path, target: Path | None, output_format: OutputFormat | None, *, overwrite: bool = False
) -> list[FileTask]:
    """Decide what is restored into what; nothing is read or written.

    A file `a.jpg` goes to `a_restored.jpg` beside it, a folder `photos` to `photos_restored` with the same tree below.

    Args:
        source: A photo, or a folder whose photos are taken with those of its subfolders.
        target: File or folder of the results, or None for the names above.
        output_format: Encoding of the results, or None for each photo's own.
        overwrite: A file that `target` names may be there already, as results may that have their names from photos.

    Raises:
        NotFound: `source` does not exist, or is a folder without photos, or one of its folders cannot be read.
        InvalidOption: A result would overwrite a photo or the file `target`, or its suffix is none the service writes,
            or its folder cannot be written to.
    """
    if source.is_dir():
        whole = source.resolve()
        folder = target or whole.with_name(f"{whole.name}_restored")
        if real(source).is_relative_to(real(folder)):
            raise InvalidOption(
                f"{folder} is the folder of the photos, or around it", hint="choose another folder for the results"
            )
        tasks = _folder_tasks(source, folder, output_format)
    elif source.is_file():
        tasks = [FileTask(source, _file_target(source, target, output_format))]
    else:
        raise NotFound(f"{source} does not exist")
    photos = {real(task.source) for task in tasks}
    for task in tasks:
        if real(task.target) in photos:
            raise InvalidOption(f"{task.target} would overwrite a photo", hint="choose another place for the results")
        written = SUFFIXES.get(task.target.suffix.lower())
        if written is None:
            raise InvalidOption(f"{task.target} has no suffix the service writes", hint=f"use {', '.join(SUFFIXES)}")
        if output_format not in (None, written):
            raise InvalidOption(f"{task.target} is not named as a {output_format} file", hint="change one of the two")
        if task.target == target and target.exists() and not overwrite:
            raise InvalidOption(f"{target} exists", hint="choose another name, or replace it by --overwrite")
    for folder in sorted({task.target.parent for task in tasks}):
        _check_writable(folder)
    return tasks


async def restore_files(
    gateway: Gateway, tasks: Sequence[FileTask], options: RestoreOptions, *, at_once: int
) -> AsyncIterator[Outcome]:
    """Restore photos, some at once so that their faces share network calls.

    Args:
        gateway: Restores them.
        tasks: What to do.
        options: The caller's choices; the encoding comes from each target's suffix.
        at_once: Photos under way together.

    Yields:
        One outcome per task, in order of completion. When results cannot be written any more, those that are not begun
        fail without being restored.
    """
    room, full = asyncio.Semaphore(at_once), asyncio.Event()

    async def one(task: FileTask) -> Outcome:
        async with room:
            try:
                if full.is_set():
                    raise NotFound("not begun: no result can be written any more")
                restoration = await _restored(gateway, task, options)
                try:
                    await asyncio.to_thread(write_result, task.target, restoration.data)
                except OSError as error:
                    if ends_everything(error):
                        full.set()
                    raise NotFound(f"{task.target} cannot be written: {error.strerror}") from error
                return Outcome(task, report=restoration.report)
            except ServiceError as error:
                forget_trace(error)  # outcomes stay to the end of the run
                return Outcome(task, error=error)

    running = [asyncio.ensure_future(one(task)) for task in tasks]
    try:
        for finished in asyncio.as_completed(running):
            yield await finished
    finally:
        await end_tasks(*running)


async def _restored(gateway: Gateway, task: FileTask, options: RestoreOptions) -> Restoration:
    upload = await asyncio.to_thread(_read, task.source, gateway.settings.max_upload_bytes)
    own = replace(options, output_format=SUFFIXES[task.target.suffix.lower()])
    while True:
        try:
            return await gateway.restore(upload, own)
        except QueueFull as full:
            await asyncio.sleep(full.retry_after_s or 1)


def _check_writable(folder: Path) -> None:
    """Refuse a folder that is there and takes no files, or that cannot be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "you may not write there" if there.is_dir() else f"{there} is no folder"
        raise InvalidOption(
            f"{folder} cannot be written to: {reason}", hint="name another place for the results as the second argument"
        )


def _read(path: Path, max_bytes: int) -> Upload:
    try:
        size_bytes = path.stat().st_size
        check_upload_bytes(size_bytes, max_bytes)
        return Upload(path.read_bytes())
    except OSError as error:
        raise NotFound(f"cannot be read: {error.strerror}") from error


def _file_target(source: Path, target: Path | None, output_format: OutputFormat | None) -> Path:
    suffix = SUFFIX_OF[output_format] if output_format else source.suffix
    if target is None:
        return source.with_name(f"{source.stem}_restored{suffix}")
    return target / f"{source.stem}{suffix}" if target.is_dir() or not target.suffix else target


def _folder_tasks(source: Path, folder: Path, output_format: OutputFormat | None) -> list[FileTask]:
    tasks: list[FileTask] = []
    for here, names, folders in walk(source, folder, _refuse):
        below = folder / here.relative_to(source)
        results = result_names(names, output_format, folders)
        tasks += [FileTask(here / name, below / result) for name, result in zip(names, results, strict=True)]
    if not tasks:
        raise NotFound(f"{source} has no photos ({', '.join(SUFFIXES)})")
    return tasks


def _refuse(folder: Path, error: OSError) -> None:
    raise NotFound(f"{folder} cannot be read: {error.strerror or error}") from error
