import io

from rich.console import Console

from service.batch.items import Item, Outcome
from service.batch.telling import BatchTelling

FAILURE = {
    "code": "corrupt_image",
    "title": "The image cannot be decoded",
    "detail": "cut [off]",
    "hint": "send it all",
}


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def outcome(tmp_path, error=None):
    return Outcome(Item("a [b].jpg", tmp_path / "a [b].jpg", tmp_path / "t.jpg", 1, 1), 1, None, error)


def told(tmp_path, seconds, failures=(), terminal=False, found=None, before=0):
    """What is told when a photo ends at each of these seconds."""
    text, clock = io.StringIO(), Clock()
    with BatchTelling(Console(file=text, force_terminal=terminal, width=100), clock) as telling:
        if found is not None:
            telling.found(found)
        for _ in range(before):
            telling.passed_over(failed=False)
        for number, second in enumerate(seconds):
            clock.now_s = float(second)
            telling.tell(outcome(tmp_path, FAILURE if number in failures else None))
    return text.getvalue()


def test_lines_now_and_then_where_there_is_no_terminal(tmp_path):
    lines = told(tmp_path, range(1, 26), found=100, before=25).splitlines()
    assert lines[0] == "10 done, 0 of them failed, 1.00 photos/s, 65 left, 0:01:05 to go"
    assert lines[1] == "20 done, 0 of them failed, 1.00 photos/s, 55 left, 0:00:55 to go"
    assert lines[2] == (
        "25 restored, 0 failed, 25 restored before, 50 not begun or not finished, in 25.0 s (1.00 photos/s)"
    )
    assert len(lines) == 3


def test_failures_are_told_at_once(tmp_path):
    lines = told(tmp_path, [1, 2], failures={0}, found=2).splitlines()
    assert lines[0] == f"{tmp_path}/a [b].jpg: The image cannot be decoded: cut [off] (send it all)"
    assert lines[1] == "1 restored, 1 failed, in 2.0 s (1.00 photos/s)"


def test_what_failed_before_can_be_tried_again():
    text = io.StringIO()
    with BatchTelling(Console(file=text, width=200), Clock()) as telling:
        telling.passed_over(failed=True)
    assert "1 failed before (--retry-failed tries them again)" in text.getvalue()


def test_while_it_is_not_known_how_many_there_are(tmp_path):
    lines = told(tmp_path, [1, 11]).splitlines()
    assert lines[0] == "2 done, 0 of them failed, 0.18 photos/s"
    assert "not begun" not in lines[1]


def test_a_terminal_shows_a_bar_with_the_rate(tmp_path):
    text = told(tmp_path, [1, 2, 3, 4], failures={3}, terminal=True, found=6, before=1)
    assert "4/5" in text
    assert "1.00 photos/s" in text
    assert "cut [off]" in text
    assert "done," not in text


def test_nothing_to_do(tmp_path):
    assert (
        told(tmp_path, [], found=2, before=2) == "0 restored, 0 failed, 2 restored before, in 0.0 s (0.00 photos/s)\n"
    )


def test_while_no_photo_ends_it_is_said_how_far_the_batch_is():
    text, clock = io.StringIO(), Clock()
    with BatchTelling(Console(file=text, width=200), clock) as telling:
        telling.passed_over(failed=False)
        for second in range(1, 26):
            clock.now_s = float(second)
            telling.remind()
    assert text.getvalue().splitlines()[:2] == ["0 done, 0 of them failed, 0.00 photos/s, 1 done before"] * 2


def test_names_of_files_tell_the_terminal_nothing(tmp_path):
    text = io.StringIO()
    path = tmp_path / "a\x1b]0;mine\x07\n600 restored, 0 failed \u202e\udcff\u00fc.jpg"
    with BatchTelling(Console(file=text, force_terminal=True, width=400), Clock()) as telling:
        telling.tell(Outcome(Item(path.name, path, tmp_path / "t.jpg", 1, 1), error=FAILURE))
    told = "a\\x1b]0;mine\\x07\\n600 restored, 0 failed \\u202e\\udcff\u00fc.jpg: The image cannot be decoded"
    assert told in text.getvalue()
