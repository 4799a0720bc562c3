import logging
import os
import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from latent_pmrf.config import SimVAEConfig
from latent_pmrf.training.checkpoint import Weights, load_weights
from latent_pmrf.training.device import has_fast_bf16, to_device
from latent_pmrf.training.loop import MOST_SKIPPED, Diverged, Trainer
from latent_pmrf.training.optim import OptimConfig
from latent_pmrf.training.processes import ProcessGroup


class Slope:
    """Learns `y = 3 x`; events may be attached to the batches of single steps."""

    name = "slope"
    config = SimVAEConfig()

    def __init__(self, events=None):
        self.events = events or {}
        self.validated = []

    def build(self):
        return nn.Linear(1, 1)

    def batch(self, step):
        x = torch.randn(8, 1, generator=torch.Generator().manual_seed(step))
        return x, 3 * x

    def loss(self, model, batch, step):
        x, y = batch
        factor = self.events.get(step, lambda: 1.0)()
        loss = (model(x).float() - y).square().mean() * factor
        return loss, {"slope": model.weight.detach().squeeze()}

    def validate(self, model):
        assert not model.training
        self.validated.append((float(model.weight), float(model.bias)))
        return {"slope": self.validated[-1][0]}

    def info(self):
        return {"fact": 7}


def trainer(tmp_path, events=None, group=None, **optim):
    defaults = {"steps": 25, "batch_size": 8, "lr": 0.05, "warmup_steps": 1, "precision": "fp32", "validate_every": 10}
    return Trainer(Slope(events), OptimConfig(**defaults | optim), tmp_path / "run", group=group)


def weights(run):
    return [parameter.tolist() for parameter in run.model.parameters()]


def scalars(tmp_path, name):
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_it_learns(tmp_path):
    run = trainer(tmp_path, steps=200)
    run.train()
    assert run.model.weight.item() == pytest.approx(3, abs=0.05)
    assert run.ema.shadow["weight"].item() == pytest.approx(3, abs=0.2)


def test_a_second_run_repeats_the_first(tmp_path):
    runs = [trainer(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        run.train()
    assert weights(runs[0]) == weights(runs[1])


def test_scalars_reach_tensorboard(tmp_path):
    trainer(tmp_path).train()
    assert [step for step, _ in scalars(tmp_path, "loss")] == [10, 20]
    assert [step for step, _ in scalars(tmp_path, "val/slope")] == [10, 20, 25]
    assert all(value > 0 for _, value in scalars(tmp_path, "grad_norm"))
    assert scalars(tmp_path, "slope")


def test_the_learning_rate_that_is_told_is_the_one_that_the_step_had(tmp_path):
    run = trainer(tmp_path, steps=20, warmup_steps=20)
    run.train()
    (group,) = run.optimizers[0].param_groups
    assert [value for _, value in scalars(tmp_path, "lr")] == pytest.approx([run.optim.lr_at(9), group["lr"]])


def test_weights_file_holds_the_average_and_the_facts(tmp_path):
    run = trainer(tmp_path)
    run.train()
    stored = load_weights(tmp_path / "run" / "weights.safetensors")
    assert torch.equal(stored.state_dict["weight"], run.ema.shadow["weight"])
    assert not torch.equal(stored.state_dict["weight"], run.model.weight)
    assert stored.config == SimVAEConfig()
    assert (stored.info["stage"], stored.info["step"], stored.info["fact"]) == ("slope", 25, 7)
    assert stored.info["optim"]["lr"] == 0.05


def test_validation_sees_the_average_and_disturbs_nothing(tmp_path):
    often, never = trainer(tmp_path / "often", validate_every=1), trainer(tmp_path / "never", validate_every=1000)
    often.train()
    never.train()
    assert weights(often) == weights(never)
    assert len(often.stage.validated) == 25
    assert often.stage.validated[-1][0] == often.ema.shadow["weight"].item()


def test_the_average_follows_every_step(tmp_path):
    seen = []
    run = trainer(tmp_path, steps=30, ema_decay=0.7, validate_every=1)
    run.stage.events = {step: lambda: seen.append(run.model.weight.item()) or 1.0 for step in range(30)}
    run.train()
    average = seen[0]
    for step, weight in enumerate([*seen[1:], run.model.weight.item()]):
        decay = min(0.7, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
        assert run.stage.validated[step][0] == pytest.approx(average, abs=1e-5)


def broken_from(first, value=float("nan")):
    return {step: lambda: value for step in range(first, first + 2 * MOST_SKIPPED)}


def test_a_run_whose_gradients_stay_non_finite_stops_and_can_be_taken_up_again(tmp_path):
    run = trainer(tmp_path, steps=4)
    run.train()
    before = weights(run)
    run = trainer(tmp_path, broken_from(4), steps=200)
    run.resume()
    with pytest.raises(Diverged, match=f"slope: the gradients of the last {MOST_SKIPPED} steps are not finite"):
        run.train()
    assert run.step == 4 + MOST_SKIPPED
    run = trainer(tmp_path, steps=200)
    assert run.resume()
    assert (run.step, weights(run)) == (4, before)


def test_gradients_that_are_finite_now_and_then_end_no_run(tmp_path):
    events = {step: value for step, value in broken_from(0).items() if step % (MOST_SKIPPED - 1)}
    run = trainer(tmp_path, events, steps=2 * MOST_SKIPPED)
    run.train()
    assert run.step == 2 * MOST_SKIPPED


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path):
    trainer(tmp_path, steps=4).train()
    run = trainer(tmp_path, {5: lambda: run.model.weight.data.fill_(float("inf"))}, steps=6)
    run.resume()
    with pytest.raises(Diverged, match="slope: weight is not finite after step 6"):
        run.train()
    assert load_weights(tmp_path / "run" / "weights.safetensors").info["step"] == 4
    run = trainer(tmp_path)
    assert run.resume()
    assert run.step == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_gradient_skips_the_step(tmp_path, caplog, value):
    run = trainer(tmp_path, {4: lambda: value}, steps=4)
    run.train()
    before = weights(run)
    run = trainer(tmp_path, {4: lambda: value}, steps=5)
    run.resume()
    with caplog.at_level(logging.WARNING):
        run.train()
    assert weights(run) == before
    assert "step 4 has a non-finite gradient and is skipped" in caplog.text
    run = trainer(tmp_path, steps=30)
    run.resume()
    run.train()
    assert all(torch.isfinite(parameter).all() for parameter in run.model.parameters())
    assert weights(run) != before


def test_the_gradient_is_clipped(tmp_path):
    loose, tight = (trainer(tmp_path / str(i), {0: lambda: 1e6}, steps=1, grad_clip=c) for i, c in ((0, 1e9), (1, 0.5)))
    loose.train()
    tight.train()
    lengths = [sum(p.grad.square().sum() for p in run.model.parameters()).sqrt().item() for run in (loose, tight)]
    assert lengths[0] > 1e5
    assert lengths[1] == pytest.approx(0.5, rel=1e-3)


def test_no_clip_leaves_the_gradient_as_it_is(tmp_path):
    free, loose = (trainer(tmp_path / str(c), {0: lambda: 1e6}, steps=1, grad_clip=c) for c in (None, 1e30))
    free.train()
    loose.train()
    gradients = [[p.grad for p in run.model.parameters()] for run in (free, loose)]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert sum(g.square().sum() for g in gradients[0]) > 1e10


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(tmp_path, sig):
    handler = signal.getsignal(sig)
    run = trainer(tmp_path, {6: lambda: os.kill(os.getpid(), sig) or 1.0})
    run.train()
    assert run.step == 7
    assert signal.getsignal(sig) is handler
    resumed = trainer(tmp_path)
    assert resumed.resume()
    assert resumed.step == 7
    resumed.train()
    undisturbed = trainer(tmp_path / "undisturbed")
    undisturbed.train()
    assert weights(resumed) == weights(undisturbed)


def test_a_signal_during_validation_waits_until_the_processes_agree(tmp_path):
    run = trainer(tmp_path)
    run.stage.validate = lambda model: os.kill(os.getpid(), signal.SIGTERM) or {}
    run.train()
    assert run.step == 11


def test_another_process_that_is_asked_stops_this_one(tmp_path):
    class Asked(ProcessGroup):
        def mean(self, values):
            return values if values.ndim == 0 else values + torch.tensor([0.0, 0.5])

    run = trainer(tmp_path, group=Asked())
    run.train()
    assert run.step == 1


def test_processes_that_resumed_at_different_steps_do_not_train(tmp_path):
    class Apart(ProcessGroup):
        def mean(self, values):
            return values + 4

    with pytest.raises(ValueError, match=r"resumed at different steps: do all of them see .*run\?"):
        trainer(tmp_path, group=Apart()).train()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_processes_share_out_the_micro_batches_of_every_step(size):
    iterators = [ProcessGroup(rank, size).micro_batches(3, 4) for rank in range(size)]
    for step in (3, 4, 5):
        indices = [next(iterator) for iterator in iterators for _ in range(4 // size)]
        assert sorted(indices) == list(range(4 * step, 4 * step + 4))


def test_a_crash_leaves_the_last_checkpoint(tmp_path):
    def crash():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        trainer(tmp_path, {12: crash}, checkpoint_minutes=0.0).train()
    resumed = trainer(tmp_path)
    resumed.resume()
    assert resumed.step == 12


def test_a_finished_run_is_left_as_it_is(tmp_path):
    run = trainer(tmp_path)
    run.train()
    again = trainer(tmp_path)
    again.resume()
    again.train()
    assert weights(again) == weights(run)
    assert again.step == 25
    assert again.stage.validated == []


def test_nothing_to_resume(tmp_path):
    assert not trainer(tmp_path).resume()


def test_bfloat16_is_what_the_forward_pass_sees_where_the_processor_has_it(tmp_path, caplog):
    seen = []

    class Watched(Slope):
        def loss(self, model, batch, step):
            seen.append(model(batch[0]).dtype)
            return super().loss(model, batch, step)

    for precision in ("bf16", "fp32"):
        optim = OptimConfig(steps=1, batch_size=8, lr=0.1, precision=precision)
        Trainer(Watched(), optim, tmp_path / precision).train()
    if has_fast_bf16(torch.device("cpu")):
        assert seen == [torch.bfloat16, torch.float32]
    else:
        assert seen == [torch.float32, torch.float32]
        assert "no fast bfloat16" in caplog.text


def test_batches_move_whole():
    batch = (torch.zeros(1), (torch.zeros(2), "name"))
    moved = to_device(batch, torch.device("meta"))
    assert (moved[0].device.type, moved[1][0].device.type, moved[1][1]) == ("meta", "meta", "name")
    assert to_device(batch[0], torch.device("cpu")) is batch[0]


def test_pictures_of_8_bits_become_numbers_up_to_one_where_the_network_is():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    moved, *_ = to_device((levels, "name"), torch.device("cpu"))
    assert moved.dtype == torch.float32
    assert torch.equal(moved, levels.float() / 255)
    assert levels[0, 0, 15, 15] == 255  # the batch itself is left alone


def test_averaged_weights_are_kept_at_every_so_many_steps(tmp_path):
    run = trainer(tmp_path, steps=5, keep_every=2)
    run.train()
    kept = {path.name: load_weights(path) for path in run.run_dir.glob("weights*.safetensors")}
    assert {name: weights.info["step"] for name, weights in kept.items()} == {
        "weights-2.safetensors": 2,
        "weights-4.safetensors": 4,
        "weights.safetensors": 5,
    }
    two, four = (kept[f"weights-{step}.safetensors"].state_dict for step in (2, 4))
    assert any(not torch.equal(two[name], four[name]) for name in two)


def test_a_run_begins_with_given_weights_as_far_as_they_fit(tmp_path, caplog):
    run = trainer(tmp_path)
    begun = {name: value.tolist() for name, value in run.model.named_parameters()}
    with caplog.at_level(logging.INFO):
        tensors = {"weight": torch.tensor([[2.5]]), "bias": torch.zeros(7), "other": torch.zeros(1)}
        run.start_from(Weights(SimVAEConfig(), tensors, {}))
    assert run.model.weight.item() == 2.5
    assert run.model.bias.tolist() == begun["bias"]
    assert run.ema.shadow["weight"].item() == 2.5
    assert "not given: ['bias']" in caplog.text


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no tensor fits"):
        trainer(tmp_path).start_from(Weights(SimVAEConfig(), {"other": torch.zeros(1)}, {}))
