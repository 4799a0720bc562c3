"""The journal after a crash at any byte, and what the next run does then."""

import asyncio
import contextlib
import io
import json
import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from service.batch.folder import FolderPair
from service.batch.items import Outcome
from service.batch.journal import Journal, State, UnusableJournal
from service.batch.run import run_batch, write_report
from service.batch.telling import BatchTelling
from service.local.results import write_result

RESULT = b"a result"
FATES = ("restored", "hopeless", "for now")
NAMES = ("a.jpg", "b c.png", "sub/ü.webp", "sub/deep/d.jpg", "z\n.png")


class ScriptedEngine:
    """Ends every photo as told, writes results like any engine, and remembers what it was given."""

    def __init__(self, fates, stop_after=None, model="m@1"):
        self.fates = fates
        self.model = model
        self.stop_after = stop_after
        self.given = []

    async def run(self, items):
        for item in items:
            if len(self.given) == self.stop_after:
                raise KeyboardInterrupt
            self.given.append(item.name)
            fate = self.fates[item.name]
            if fate == "restored":
                await asyncio.to_thread(write_result, item.target, RESULT)
                yield Outcome(item, len(RESULT), {"model": self.model})
            else:
                error = {"code": "c", "title": "t", "detail": "d", "hint": "", "retryable": fate == "for now"}
                yield Outcome(item, error=error)


def folders_at(root):
    for name in NAMES:
        path = root / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return FolderPair(root / "in", root / "out", None)


def one_run(folders, engine, path, told=None, **more):
    telling = BatchTelling(Console(file=told or io.StringIO(), width=200))
    with Journal(path, {}, folders.target) as journal:
        asyncio.run(run_batch(folders, journal, engine, telling, **more))
    return telling


@settings(max_examples=25, deadline=None)
@given(
    fates=st.lists(st.sampled_from(FATES), min_size=len(NAMES), max_size=len(NAMES)),
    cut=st.floats(0, 1),
    data=st.data(),
)
def test_after_a_crash_at_any_byte_the_next_run_does_exactly_what_is_missing(fates, cut, data):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folders, path, by_name = folders_at(root), root / "out" / "journal", dict(zip(NAMES, fates, strict=True))
        one_run(folders, ScriptedEngine(by_name), path)
        whole = path.read_bytes()
        kept = whole[: round(cut * len(whole))]
        path.write_bytes(kept)
        complete = [json.loads(line) for line in kept.split(b"\n")[:-1]][1:]
        done = {line["name"] for line in complete if line["status"] == "restored" or not line["error"]["retryable"]}
        lost = data.draw(st.sampled_from([None, *sorted(done)]))
        if lost is not None and by_name[lost] == "restored":
            (folders.target / lost).unlink()
            done.remove(lost)

        engine = ScriptedEngine(dict.fromkeys(NAMES, "restored"))
        telling = one_run(folders, engine, path)
        assert sorted(engine.given) == sorted(set(NAMES) - done)
        assert telling.restored + telling.restored_before + telling.failed_before == len(NAMES)

        with Journal(path, {}, folders.target) as journal:
            states = {item.name: journal.state_of(item) for item in folders.items(pytest.fail)}
            hopeless = {name for name in done if by_name[name] == "hopeless"}
            assert {name for name, state in states.items() if state is State.FAILED} == hopeless
            assert {name for name, state in states.items() if state is State.RESTORED} == set(NAMES) - hopeless
            report = io.StringIO()
            write_report(journal, report)
        entries = [json.loads(line) for line in report.getvalue().splitlines()]
        assert sorted(entry["name"] for entry in entries) == sorted(NAMES)


@settings(max_examples=8, deadline=None)
@given(stop_after=st.integers(0, len(NAMES)))
def test_an_interrupted_run_has_noted_what_it_has_done(stop_after):
    with tempfile.TemporaryDirectory() as name:
        folders, path = folders_at(Path(name)), Path(name) / "journal"
        first = ScriptedEngine(dict.fromkeys(NAMES, "restored"), stop_after)
        try:
            one_run(folders, first, path)
        except KeyboardInterrupt:
            assert stop_after < len(NAMES)
        second = ScriptedEngine(dict.fromkeys(NAMES, "restored"))
        one_run(folders, second, path)
        assert sorted(first.given + second.given) == sorted(NAMES)


@pytest.fixture
def folders(tmp_path):
    return folders_at(tmp_path)


def test_hopeless_photos_are_tried_again_only_when_asked_for(folders, tmp_path):
    one_run(folders, ScriptedEngine(dict.fromkeys(NAMES, "hopeless")), tmp_path / "j")
    again = ScriptedEngine(dict.fromkeys(NAMES, "restored"))
    telling = one_run(folders, again, tmp_path / "j")
    assert (again.given, telling.failed_before, telling.all_restored) == ([], len(NAMES), False)
    telling = one_run(folders, again, tmp_path / "j", retry_failed=True)
    assert (sorted(again.given), telling.all_restored) == (sorted(NAMES), True)


def test_a_photo_that_has_changed_is_done_again(folders, tmp_path):
    one_run(folders, ScriptedEngine(dict.fromkeys(NAMES, "hopeless")), tmp_path / "j")
    (folders.source / "a.jpg").write_bytes(b"longer")
    again = ScriptedEngine(dict.fromkeys(NAMES, "restored"))
    one_run(folders, again, tmp_path / "j")
    assert again.given == ["a.jpg"]


def test_lines_that_cannot_be_read_count_for_nothing(folders, tmp_path):
    one_run(folders, ScriptedEngine(dict.fromkeys(NAMES, "restored")), tmp_path / "j")
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * (len(lines[1]) - 1) + b"\n"
    lines[2] = b'{"name":7}\n'
    lines[3] = b"[1]\n"
    (tmp_path / "j").write_bytes(b"".join(lines))
    again = ScriptedEngine(dict.fromkeys(NAMES, "restored"))
    one_run(folders, again, tmp_path / "j")
    assert len(again.given) == 3


@pytest.mark.parametrize("left", [b"", RESULT[:-1], RESULT + b"!", None])
def test_a_result_that_is_damaged_or_gone_is_made_again(folders, tmp_path, left):
    one_run(folders, ScriptedEngine(dict.fromkeys(NAMES, "restored")), tmp_path / "j")
    result = folders.target / "sub" / "ü.webp"
    result.unlink() if left is None else result.write_bytes(left)
    again = ScriptedEngine(dict.fromkeys(NAMES, "restored"))
    one_run(folders, again, tmp_path / "j")
    assert again.given == ["sub/ü.webp"]
    assert result.read_bytes() == RESULT


def names_in_report(folders, path, fates, stop_after=None):
    """Names in the report of one run; interrupted where `stop_after` says so."""
    report, telling = io.StringIO(), BatchTelling(Console(file=io.StringIO()))
    with Journal(path, {}, folders.target) as journal:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run_batch(folders, journal, ScriptedEngine(fates, stop_after), telling))
        write_report(journal, report)
    return sorted(json.loads(line)["name"] for line in report.getvalue().splitlines())


def test_the_report_tells_of_the_photos_that_are_there(folders, tmp_path):
    fates = {**dict.fromkeys(NAMES, "restored"), "a.jpg": "hopeless", "b c.png": "for now"}
    assert names_in_report(folders, tmp_path / "j", fates) == sorted(NAMES)
    for gone in ("a.jpg", "b c.png", "sub/ü.webp"):
        (folders.source / gone).unlink()
    assert names_in_report(folders, tmp_path / "j", fates) == ["sub/deep/d.jpg", "z\n.png"]


def test_the_report_does_not_tell_of_a_result_that_is_gone(folders, tmp_path):
    fates = dict.fromkeys(NAMES, "restored")
    names_in_report(folders, tmp_path / "j", fates)
    (folders.target / "a.jpg").unlink()
    assert names_in_report(folders, tmp_path / "j", fates, stop_after=0) == sorted(set(NAMES) - {"a.jpg"})


def test_a_line_that_the_disk_did_not_take_whole_spoils_no_other(folders, tmp_path):
    """A limit for files is to a process what a full disk is."""
    items = {item.name: item for item in folders.items(pytest.fail)}
    with Journal(tmp_path / "j", {}, folders.target) as journal:
        journal.note(Outcome(items["a.jpg"], 1, {}))
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "j").stat().st_size + 20, unlimited[1]))
        try:
            with pytest.raises(OSError, match="the disk took 20 of"):
                journal.note(Outcome(items["b c.png"], 1, {}))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        journal.note(Outcome(items["z\n.png"], 1, {}))
        assert [entry["name"] for entry in journal.entries()] == ["a.jpg", "z\n.png"]
    with Journal(tmp_path / "j", {}, folders.target) as journal:
        assert [entry["name"] for entry in journal.entries()] == ["a.jpg", "z\n.png"]


def test_a_file_of_somebody_else_stays_what_it_is(tmp_path):
    for content in (b"no journal", b"no journal\n", b'{"other": 1}\n', b"\n"):
        (tmp_path / "file").write_bytes(content)
        for fresh in (False, True):
            with pytest.raises(UnusableJournal):
                Journal(tmp_path / "file", {}, tmp_path, fresh=fresh)
        assert (tmp_path / "file").read_bytes() == content


def test_a_journal_of_another_release_can_only_be_begun_anew(tmp_path):
    (tmp_path / "j").write_text('{"journal":9,"options":{}}\n')
    with pytest.raises(UnusableJournal, match="another release"):
        Journal(tmp_path / "j", {}, tmp_path)
    Journal(tmp_path / "j", {}, tmp_path, fresh=True).close()
    Journal(tmp_path / "j", {}, tmp_path).close()


def test_a_journal_that_is_open_is_not_opened_again(tmp_path):
    with Journal(tmp_path / "j", {}, tmp_path), pytest.raises(UnusableJournal, match="in use"):
        Journal(tmp_path / "j", {}, tmp_path)
    Journal(tmp_path / "j", {}, tmp_path).close()


def test_a_journal_is_of_one_folder_of_photos_until_they_are_told_to_have_moved(folders, tmp_path):
    def opened(source, **how):
        return Journal(tmp_path / "j", {}, folders.target, source=source, **how)

    items = {item.name: item for item in folders.items(print)}
    Journal(tmp_path / "j", {}, folders.target).close()  # as a release before knew no source
    with opened("/first") as journal:
        journal.note(Outcome(items["a.jpg"], 1, {}))
    written = (tmp_path / "j").read_bytes()
    with pytest.raises(UnusableJournal, match=r"has the results of /first, not of /second: .* --moved"):
        opened("/second")
    assert (tmp_path / "j").read_bytes() == written
    opened("/first").close()
    with opened("/second", moved=True) as journal:
        assert [entry["name"] for entry in journal.entries()] == ["a.jpg"]
    with pytest.raises(UnusableJournal, match="has the results of /second, not of /first"):
        opened("/first")
    with opened("/first", fresh=True) as journal:
        assert list(journal.entries()) == []
    opened("/first").close()


def test_results_of_several_models_are_told_at_the_end(tmp_path):
    folders, told = folders_at(tmp_path), io.StringIO()
    fates = dict.fromkeys(NAMES, "restored")
    one_run(folders, ScriptedEngine(fates | {NAMES[0]: "for now"}), tmp_path / "j", told)
    assert "several models (" not in told.getvalue()
    one_run(folders, ScriptedEngine(fates, model="m@2"), tmp_path / "j", told)
    assert "several models (m@1, m@2): --report says which" in told.getvalue()
    for name in NAMES:
        (tmp_path / "in" / name).write_bytes(b"changed")
    one_run(folders, ScriptedEngine(fates, model="m@2"), tmp_path / "j", again := io.StringIO())
    assert "several models (" not in again.getvalue()
