"""How an export is told, on a terminal and elsewhere."""

import io

from rich.console import Console

from export.telling import telling


def test_on_a_terminal_a_bar_stands_below_the_lines():
    screen = io.StringIO()
    with telling("exporting", 2, Console(file=screen, force_terminal=True, width=100)) as say:
        say("[velocity]: 19 MB")
        say("pipeline")
    shown = screen.getvalue()
    assert "[velocity]: 19 MB" in shown
    assert "exporting" in shown
    assert "2/2" in shown
    assert "left" in shown


def test_elsewhere_there_are_plain_lines(capsys):
    with telling("exporting", 1, Console(file=io.StringIO())) as say:
        say("[velocity]: 19 MB")
    assert capsys.readouterr() == ("[velocity]: 19 MB\n", "")
