import pytest

from latent_pmrf.training.processes import joined


def test_more_processes_than_gpus_are_refused_by_the_name_of_the_missing_one(monkeypatch):
    monkeypatch.setenv("RANK", "99")
    monkeypatch.setenv("WORLD_SIZE", "100")
    monkeypatch.setenv("LOCAL_RANK", "99")

    with pytest.raises(ValueError, match="device 'cuda:99' cannot be used"), joined("cuda"):
        pass


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)

    with joined("cpu") as (group, device):
        assert (group.rank, group.size, group.leads, device) == (0, 1, True, "cpu")
