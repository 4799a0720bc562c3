"""`make soak`, short, on real processes; and the stamp by which photos are told apart."""

import re

import numpy as np
import pytest

from loadtest.soak.__main__ import Diary, Ending, main
from loadtest.soak.stamped import number_of, stamped


@pytest.mark.slow
def test_every_job_ends_once_with_its_own_photo_while_processes_are_killed(arithmetic_bundle, monkeypatch, capsys):
    monkeypatch.setenv("LATENT_PMRF_MODEL_REPOSITORY", str(arithmetic_bundle))
    assert main(["--seconds", "15", "--per-s", "2", "--kill-every-s", "4"]) == 0
    told = capsys.readouterr().out
    assert int(re.search(r"jobs: (\d+), of which wrong or lost: 0", told)[1]) > 10
    assert re.search(r"kills: \d+ of (gateway|worker)s", told)


@pytest.mark.parametrize("number", [0, 1, 4711, 2**24 - 1])
def test_a_photo_says_which_it_is(number):
    assert number_of(stamped(np.full((64, 256, 3), 90, np.uint8), number)) == number


def test_the_slowest_of_few_jobs_are_told():
    diary = Diary(endings=[Ending("succeeded", "succeeded", seconds, 1) for seconds in (9.0, 1.0)])
    assert "median 5.0, p99 9.0, largest 9.0" in diary.as_markdown()


def test_what_is_wrong_is_told():
    diary = Diary(
        endings=[Ending("succeeded", "another photo: 3 for 4", 1.0, 1), Ending("succeeded", "succeeded", 1.0, 2)]
    )
    assert "of which wrong or lost: 1" in diary.as_markdown()
    assert "WRONG" in diary.as_markdown()
    assert "sent more than once: 1" in diary.as_markdown()
