"""A request for an archive in, what it came to out: places, journal, Ray and telling put together.

check places and options -> start Ray, or join its cluster -> open the journal -> run -> report
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from service.archive.engine import RayEngine
from service.archive.photos import PlacePair
from service.archive.places import Place
from service.archive.stages import Work
from service.batch.command import JOURNAL_NAME, cancelled_by, check_report, chosen_options, do_the_rest
from service.batch.folder import FolderPair
from service.batch.journal import Journal
from service.core.errors import InvalidOption
from service.core.manifest import load_manifest
from service.core.options import OptionLimits, parse_options
from service.core.settings import Settings


async def restore_archive(
    given: argparse.Namespace, fields: Mapping[str, str], settings: Settings, console: Console
) -> bool:
    """Restore what is left of an archive; True if every photo of it is restored now.

    Args:
        given: What `service.batch.arguments` declares.
        fields: Options as text, by name.
        settings: The operator's.
        console: Told how it goes.

    Raises:
        InputError: Places or options are wrong; nothing was begun.
        ManifestMismatch: The bundle is not usable; likewise.
        UnusableJournal: The journal belongs to another batch; likewise.
        RestorationError: There is no such cluster, or it is lost; what was done is in the journal.
        OSError: Nothing can be written any more; likewise.
        CancelledError: A signal came; likewise.
    """
    manifest = load_manifest(settings.model_repository)
    limits = OptionLimits(manifest.max_num_steps, settings.max_faces)
    options = parse_options(fields, limits)
    source, target = Place.of(given.source), Place.of(given.target)
    photos: FolderPair | PlacePair = PlacePair(source, target, options.output_format)
    if source.is_local and target.is_local:
        photos = FolderPair(Path(source.root), Path(target.root), options.output_format)
    elif given.journal is None and not target.is_local:
        raise InvalidOption("--journal FILE is missing", hint="a journal is a file of this machine")
    photos.check()
    path = given.journal or Path(target.root, JOURNAL_NAME)
    check_report(given.report, path)
    result_bytes = photos.result_bytes if isinstance(photos, PlacePair) else None
    own = settings.model_copy(update={"model_repository": settings.model_repository.absolute()})
    journal = Journal(
        path,
        chosen_options(fields, limits),
        Path(target.root),
        source=source.address,
        moved=given.moved,
        fresh=given.fresh,
        result_bytes=result_bytes,
    )
    with journal, cancelled_by(signal.SIGTERM):
        engine = RayEngine(Work(own, manifest, options, source, target), workers=given.workers, block=given.window)
        return await do_the_rest(given, photos, journal, engine, console)
