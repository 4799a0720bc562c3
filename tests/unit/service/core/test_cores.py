import os

import pytest

from service.core.cores import has_bfloat16_tiles, usable_cores


@pytest.fixture
def cores(tmp_path, monkeypatch):
    """The cores of a process bound to eight, by the files of its groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)), raising=False)

    def found(files, own="0::/"):
        for name, text in files.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        (tmp_path / "own").write_text(own + "\n")
        return usable_cores(tmp_path / "cgroup", tmp_path / "own")

    return found


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("6400000 100000", 8),
        ("100000 0", 8),
        ("nonsense", 8),
    ],
)
def test_a_container_s_quota_bounds_its_cores(cores, limit, expected):
    assert cores({"cpu.max": limit}) == expected


def test_the_least_quota_around_a_process_counts(cores):
    files = {"machine.slice/cpu.max": "300000 100000", "machine.slice/ours.service/cpu.max": "max 100000"}
    assert cores(files, own="0::/machine.slice/ours.service") == 3
    assert cores({"machine.slice/ours.service/cpu.max": "100000 50000"}, own="0::/machine.slice/ours.service") == 2
    assert cores({}, own="0::/elsewhere") == 8


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("50000", 1), ("400000", 4)])
@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize("group", ["", "ours/inner"])
def test_groups_of_version_1(cores, controllers, group, quota, expected):
    folder = f"{controllers}/{group.partition('/')[0]}"
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}
    assert cores(files, own=f"9:name=systemd:/\n3:cpuset:/other\n1:{controllers}:/{group}\n0::/") == expected


def test_without_groups_all_cores_count(cores):
    assert cores({}) == 8


def test_here_there_is_one_at_least():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2\nvmx flags\t: amx_bf16\n", False),
        ("Features\t: asimd bf16\n", False),
    ],
)
def test_tiles_are_told_by_the_kernel(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert has_bfloat16_tiles(tmp_path / "cpuinfo") is expected
    assert has_bfloat16_tiles(tmp_path / "absent") is False
