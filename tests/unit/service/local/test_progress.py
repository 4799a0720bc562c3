import contextlib
import io
from pathlib import Path

from rich.console import Console

from service.core.errors import CorruptImage
from service.core.types import FaceReport, FaceStatus, OutputFormat, Report
from service.local.files import FileTask, Outcome
from service.local.progress import FileProgress

TASK = FileTask(Path("a [b].jpg"), Path("out/a [b].jpg"))
FACE = FaceReport(0, (0, 0, 9, 9), None, None, FaceStatus.RESTORED)
REPORT = Report("id", "m@1", 8, 8, 0, 1, 0.5, (FACE,), {"total": 1500.0}, OutputFormat.JPEG)
GOOD = Outcome(TASK, report=REPORT)
BAD = Outcome(TASK, error=CorruptImage("cut off [here]", hint="send it all"))


def told(outcomes, total=2, terminal=False):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=40)
    with FileProgress(console, total) as progress:
        for outcome in outcomes:
            progress.tell(outcome)
    return text.getvalue()


def test_lines_where_there_is_no_terminal():
    lines = told([GOOD, BAD]).splitlines()
    assert lines[0] == "a [b].jpg -> out/a [b].jpg (faces: 1, 1.50 s)"
    assert lines[1] == "a [b].jpg: The image cannot be decoded: cut off [here] (send it all)"
    assert lines[2].startswith("1 restored, 1 failed, in ")
    assert len(lines) == 3


def test_what_was_not_done_is_said():
    assert "1 restored, 0 failed, 2 not begun or not finished" in told([GOOD], total=3)


def test_a_terminal_shows_a_bar_and_only_failures():
    text = told([GOOD, BAD], terminal=True)
    assert "2/2" in text
    assert "cut off [here]" in text
    assert "->" not in text


def test_an_interrupted_run_still_ends_with_the_sum():
    text = io.StringIO()
    with contextlib.suppress(KeyboardInterrupt), FileProgress(Console(file=text), 5) as progress:
        progress.tell(GOOD)
        raise KeyboardInterrupt
    assert "4 not begun or not finished" in text.getvalue()
