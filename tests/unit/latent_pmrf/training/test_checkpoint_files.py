import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from latent_pmrf.config import SimVAEConfig
from latent_pmrf.training.checkpoint import load_training_state, load_weights, save_training_state, save_weights
from latent_pmrf.training.ema import EMA
from latent_pmrf.training.muon import Muon


class Run:
    """A small network with its optimiser and average."""

    def __init__(self, seed, width=3):
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Conv2d(width, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
        self.ema = EMA(self.model, 0.9)
        self.optimizers = [torch.optim.AdamW(self.model[1:].parameters(), lr=0.1), Muon([self.model[0].weight], lr=0.1)]

    def steps(self, *seeds):
        for seed in seeds:
            torch.manual_seed(seed)
            self.model.zero_grad()
            self.model(torch.randn(2, 3, 6, 6)).square().sum().backward()
            for optimizer in self.optimizers:
                optimizer.step()
            self.ema.update(self.model, seed)
        return self

    @property
    def parts(self):
        return self.model, self.ema, self.optimizers

    def weights(self):
        return torch.cat([value.flatten().double() for value in self.model.state_dict().values()])

    def average(self):
        return torch.cat([value.flatten().double() for value in self.ema.shadow.values()])


def header(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path):
    path = tmp_path / "state.safetensors"
    stopped = Run(0).steps(1, 2, 3)
    save_training_state(path, *stopped.parts, {"step": 3})
    resumed = Run(99)
    assert load_training_state(path, *resumed.parts) == {"step": 3}
    undisturbed = Run(0).steps(1, 2, 3, 4, 5)
    resumed.steps(4, 5)
    assert torch.equal(resumed.weights(), undisturbed.weights())
    assert torch.equal(resumed.average(), undisturbed.average())
    assert resumed.model[1].num_batches_tracked == 5


def test_saving_changes_nothing(tmp_path):
    run, twin = Run(0).steps(1), Run(0).steps(1)
    save_training_state(tmp_path / "state.safetensors", *run.parts, {})
    assert torch.equal(run.steps(2).weights(), twin.steps(2).weights())


def test_files_are_safetensors_with_json_and_nothing_else(tmp_path):
    run = Run(0).steps(1)
    save_training_state(tmp_path / "state.safetensors", *run.parts, {"step": 1, "train_seconds": 2.5})
    save_weights(tmp_path / "weights.safetensors", SimVAEConfig(), run.ema.shadow, {"stage": "vae"})
    state, weights = header(tmp_path / "state.safetensors"), header(tmp_path / "weights.safetensors")
    assert {name.partition(".")[0] for name in state} == {"__metadata__", "model", "ema", "optimizer"}
    assert json.loads(state["__metadata__"]["latent_pmrf"]) == {
        "info": {"step": 1, "train_seconds": 2.5},
        "optimizers": ["AdamW", "Muon"],
    }
    assert set(weights) == {"__metadata__", *run.model.state_dict()}
    assert set(json.loads(weights["__metadata__"]["latent_pmrf"])) == {"config", "info"}


def test_weights_describe_themselves(tmp_path):
    config = SimVAEConfig(block_out_channels=(8, 16), linear_skip=True)
    tensors = {"a.weight": torch.randn(2, 3), "count": torch.tensor(7)}
    save_weights(tmp_path / "deep" / "weights.safetensors", config, tensors, {"stage": "vae", "sigma_s": (0.1, 0.2)})
    weights = load_weights(tmp_path / "deep" / "weights.safetensors")
    assert weights.config == config
    assert weights.info == {"stage": "vae", "sigma_s": [0.1, 0.2]}
    assert all(torch.equal(weights.state_dict[name], value) for name, value in tensors.items())


def test_a_failed_write_leaves_the_last_good_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, SimVAEConfig(), {"a": torch.ones(2)}, {"step": 1})
    with pytest.raises(TypeError):
        save_weights(path, SimVAEConfig(), {"a": torch.zeros(2)}, {"step": object()})
    assert load_weights(path).info == {"step": 1}
    (tmp_path / "weights.safetensors.partial").write_bytes(b"half a fi")
    save_weights(path, SimVAEConfig(), {"a": torch.zeros(2)}, {"step": 2})
    assert load_weights(path).info == {"step": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


def test_files_may_be_read_by_whom_the_folder_is_for(tmp_path):
    (tmp_path / "plain").touch()
    left_by_a_kill = tmp_path / "weights.safetensors.partial"
    left_by_a_kill.touch(mode=0o600)
    save_weights(tmp_path / "weights.safetensors", SimVAEConfig(), {"a": torch.zeros(1)}, {})
    assert (tmp_path / "weights.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_foreign_file_is_named(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match=r"foreign\.safetensors holds no network specification"):
        load_weights(tmp_path / "foreign.safetensors")


def test_a_checkpoint_of_another_network_changes_nothing(tmp_path):
    save_training_state(tmp_path / "state.safetensors", *Run(0).parts, {"step": 1})
    other = Run(1, width=5)
    before = other.weights()
    with pytest.raises(ValueError, match=r"1 tensors differ, the first is 0\.weight"):
        load_training_state(tmp_path / "state.safetensors", *other.parts)
    assert torch.equal(other.weights(), before)


def test_the_average_follows_with_a_ramped_decay():
    run = Run(0)
    first = run.average()
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(1)
    run.ema.update(run.model, 0)  # decay (1 + 0) / (10 + 0)
    moved = run.average() - first
    assert moved.max().item() == pytest.approx(0.9)
    run.ema.update(run.model, 10**6)  # decay 0.9
    assert (run.average() - first).max().item() == pytest.approx(0.9 + 0.1 * 0.1)


def test_the_average_copies_counters():
    run = Run(0).steps(1, 2)
    assert run.ema.shadow["1.num_batches_tracked"] == 2


def test_the_average_is_no_view_of_the_weights():
    run = Run(0)
    before = run.average()
    nn.init.zeros_(run.model[0].weight)
    assert torch.equal(run.average(), before)


def test_a_checkpoint_of_other_optimisers_changes_nothing(tmp_path):
    save_training_state(tmp_path / "state.safetensors", *Run(0).steps(1).parts, {"step": 1})
    other = Run(1)
    before = other.weights()
    with pytest.raises(ValueError, match=r"trained with \['AdamW', 'Muon'\], this recipe says \['AdamW'\]"):
        load_training_state(tmp_path / "state.safetensors", other.model, other.ema, other.optimizers[:1])
    assert torch.equal(other.weights(), before)


@pytest.mark.parametrize("content", [b"PK\x03\x04 what torch.save writes", b"", b"\xff" * 64])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth is damaged, or no \.safetensors file: "):
        load_weights(tmp_path / "weights.pth")


def test_a_folder_is_no_weights_file_and_what_is_not_there_is_said_so(tmp_path):
    with pytest.raises(ValueError, match=r"is damaged, or no \.safetensors file"):
        load_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent"):
        load_weights(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    tensors = {"count": torch.tensor(3), "a.weight": torch.ones(2), "b.weight": torch.tensor([1.0, value])}
    save_weights(tmp_path / "weights.safetensors", SimVAEConfig(), tensors, {})
    with pytest.raises(ValueError, match=r"weights\.safetensors: b\.weight is not finite"):
        load_weights(tmp_path / "weights.safetensors")
