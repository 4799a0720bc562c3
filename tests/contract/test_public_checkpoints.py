"""Public files load whatever their wrapper, and a file that does not fit says what is wrong with it."""

import dataclasses
import json
import re

import pytest
import torch
from safetensors.torch import save_file

from latent_pmrf.checkpoints import (
    CheckpointMismatchError,
    computed_tensors,
    convert,
    public_layout,
    read_public,
    unwrap,
    with_prefix,
)
from latent_pmrf.config import ESTIMATOR_PRESETS, VAE_PRESETS, VELOCITY_PRESETS, HDiTConfig
from latent_pmrf.nets.build import build
from tests.contract.parity_files import TINY, parity_folder, public_shapes, tiny_weights

PUBLISHED = {
    "swinir": ESTIMATOR_PRESETS["published"],
    "sim_vae": VAE_PRESETS["published"],
    "hdit": VELOCITY_PRESETS["pmrf-published"],
    "looformer": dataclasses.replace(VELOCITY_PRESETS["published"], time_convention="sigma"),
}
PREFIXES = {"hdit": "model."}


def expected_shapes(config):
    computed = {name: tuple(value.shape) for name, value in computed_tensors(config).items()}
    return {tensor.name: tensor.shape for tensor in public_layout(config).values()} | computed


def made_up(config):
    """A complete public state dict of ours, with random values."""
    generator = torch.Generator().manual_seed(0)
    drawn = {t.name: torch.randn(t.shape, generator=generator) for t in public_layout(config).values()}
    return drawn | computed_tensors(config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_the_published_ones(name):
    shapes = public_shapes(parity_folder(name))
    assert all(key.startswith(PREFIXES.get(name, "")) for key in shapes)
    assert expected_shapes(PUBLISHED[name]) == {
        key.removeprefix(PREFIXES.get(name, "")): shape for key, shape in shapes.items()
    }


def test_pmrf_s_bundle_is_its_two_networks():
    shapes = public_shapes(parity_folder("hdit"), "keys_full_bundle")
    parts = {"model.": PUBLISHED["hdit"], "mmse_model.": PUBLISHED["swinir"]}
    expected = {f"{prefix}{name}": shape for prefix, c in parts.items() for name, shape in expected_shapes(c).items()}
    assert shapes == expected


@pytest.mark.parametrize("name", TINY)
def test_conversion_is_complete_and_changes_no_value(name):
    public = tiny_weights(parity_folder(name))
    layout, state = public_layout(TINY[name]), convert(public, TINY[name])
    build(TINY[name]).load_state_dict(state, strict=True)
    assert all(torch.equal(state[own].flatten(), public[t.name].flatten()) for own, t in layout.items())


@pytest.mark.parametrize("name", TINY)
def test_computed_tensors_may_be_absent(name):
    config = TINY[name]
    public = made_up(config)
    bare = {key: value for key, value in public.items() if key not in computed_tensors(config)}
    full, less = convert(public, config), convert(bare, config)
    assert full.keys() == less.keys()
    assert all(torch.equal(full[key], less[key]) for key in full)


@pytest.mark.parametrize("name", TINY)
def test_half_precision_files_become_float32(name):
    halves = {key: value.half() if value.is_floating_point() else value for key, value in made_up(TINY[name]).items()}
    assert {value.dtype for value in convert(halves, TINY[name]).values()} == {torch.float32}


@pytest.mark.parametrize("name", TINY)
def test_every_misfit_is_named(name):
    config = TINY[name]
    public = made_up(config)
    names = [tensor.name for tensor in public_layout(config).values()]
    public["of_another_network"] = torch.zeros(1)
    del public[names[0]]
    public[names[-1]] = torch.zeros(7, 5)
    with pytest.raises(CheckpointMismatchError) as caught:
        convert(public, config)
    error = caught.value
    assert (error.unknown, error.missing) == (("of_another_network",), (names[0],))
    assert len(error.misshaped) == 1
    assert error.misshaped[0].startswith(f"{names[-1]} (7, 5) instead of (")
    assert all(name in str(error) for name in ("of_another_network", names[0], names[-1]))


@pytest.mark.parametrize("name", ["swinir", "hdit", "looformer"])
def test_a_computed_tensor_of_other_values_is_refused(name):
    public = made_up(TINY[name])
    wrong = sorted(computed_tensors(TINY[name]))[-1]
    public[wrong] = public[wrong] + 1
    with pytest.raises(CheckpointMismatchError) as caught:
        convert(public, TINY[name])
    assert caught.value.different == (wrong,)


def test_a_long_list_of_misfits_is_cut_but_counted():
    with pytest.raises(CheckpointMismatchError, match=r"missing: .* and \d+ more") as caught:
        convert({}, TINY["sim_vae"])
    assert len(caught.value.missing) == len(public_layout(TINY["sim_vae"]))


@pytest.mark.parametrize("config", [HDiTConfig(), dataclasses.replace(TINY["hdit"], time_convention="sigma")])
def test_a_time_convention_without_public_files_is_refused(config):
    with pytest.raises(ValueError, match="time_convention"):
        convert({}, config)


@pytest.mark.parametrize("wrapper", ["params_ema", "ema", "params", "state_dict", None])
@pytest.mark.parametrize("module", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_are_taken_off(wrapper, module):
    state = {f"{module}layer.weight": torch.ones(2)}
    content = state if wrapper is None else {wrapper: state, "epoch": 3}
    assert unwrap(content)["layer.weight"].tolist() == [1, 1]
    assert list(unwrap(content)) == ["layer.weight"]


def test_a_compiled_module_inside_another_is_no_part_of_a_name():
    assert list(unwrap({"state_dict": {"model._orig_mod.weight": torch.ones(1)}})) == ["model.weight"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({0: torch.zeros(1)}, "holds no tensors"),
        ({"ema": {"shadow_params": 3}, "state_dict": {"model.a": torch.zeros(1)}}, "no list of tensors"),
        ({"ema": {"shadow_params": ["a"]}, "state_dict": {"model.a": torch.zeros(1)}}, "no list of tensors"),
        ({"ema": {"shadow_params": [torch.zeros(1)]}, "state_dict": {"model.a": 3}}, "1 tensors for 0 parameters"),
    ],
)
def test_files_of_another_structure_are_named(tmp_path, content, message):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=rf"odd\.pth.*{message}"):
        read_public(tmp_path / "odd.pth")


def test_averaged_weights_win():
    content = {"params": {"weight": torch.zeros(1)}, "params_ema": {"weight": torch.ones(1)}}
    assert unwrap(content)["weight"] == 1


def test_files_of_both_formats_are_read(tmp_path):
    tensors = {"model.a": torch.ones(1), "mmse_model.a": torch.zeros(1), "fid.sum": torch.zeros(1)}
    save_file(tensors, tmp_path / "file.safetensors")
    torch.save({"state_dict": tensors, "epoch": 1}, tmp_path / "file.ckpt")
    for path in (tmp_path / "file.safetensors", tmp_path / "file.ckpt"):
        assert read_public(path) == tensors
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match=r"empty\.safetensors holds no tensors"):
        read_public(tmp_path / "empty.safetensors")


def test_a_pickle_with_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(ValueError, match=r"trap\.ckpt .* holds more than tensors and plain values"):
        read_public(tmp_path / "trap.ckpt")


@pytest.mark.parametrize("name", ["weights.bin", "weights.onnx", "weights.pt", "weights.pkl", "weights"])
def test_files_of_other_kinds_are_refused_unopened(tmp_path, name):
    with pytest.raises(ValueError, match=r"only \.safetensors, \.pth and \.ckpt files are read"):
        read_public(tmp_path / name)


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth", "cut.ckpt"])
@pytest.mark.parametrize("content", [b"", b"not weights at all"])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(name)):
        read_public(tmp_path / name)


def test_a_file_of_a_single_tensor_is_refused(tmp_path):
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="holds a Tensor, not names and tensors"):
        read_public(tmp_path / "tensor.pth")


def training_checkpoint():
    """A Lightning checkpoint of PMRF with the tiny transformer, in public order; the average is twice the weights."""
    folder = parity_folder("hdit")
    weights = {f"model.{name}": value for name, value in tiny_weights(folder).items()}
    state = {name: weights[name] for name in public_shapes(folder) if name in weights}
    averaged = json.loads((folder / "ema_order.json").read_text())
    shadow = [2 * weights[name] for name in averaged if name in weights]
    estimator = {"mmse_model.conv.weight": torch.zeros(1)}
    return {"state_dict": state | estimator, "ema": {"shadow_params": shadow, "decay": 0.9999}}


def test_pmrf_s_training_checkpoint_gives_the_average(tmp_path):
    torch.save(training_checkpoint(), tmp_path / "pmrf.ckpt")
    state = convert(with_prefix(read_public(tmp_path / "pmrf.ckpt"), "model."), TINY["hdit"])
    raw = convert(tiny_weights(parity_folder("hdit")), TINY["hdit"])
    assert torch.equal(state["proj_in.proj.weight"], 2 * raw["proj_in.proj.weight"])
    assert torch.equal(state["ups.0.fac"], 2 * raw["ups.0.fac"])
    assert torch.equal(state["time_proj.weight"], raw["time_proj.weight"])  # a buffer has no average


def test_the_average_of_a_compiled_flow_is_named():
    plain = training_checkpoint()
    compiled = {name.replace("model.", "model._orig_mod.", 1): value for name, value in plain["state_dict"].items()}
    found = unwrap({**plain, "state_dict": compiled})
    assert found.keys() == unwrap(plain).keys()
    assert all(torch.equal(found[name], value) for name, value in unwrap(plain).items())


def test_an_average_of_other_weights_is_refused():
    content = {"state_dict": {"model.a": torch.zeros(2), "model.b": torch.zeros(3)}}
    with pytest.raises(ValueError, match="1 tensors for 2 parameters"):
        unwrap(content | {"ema": {"shadow_params": [torch.zeros(2)]}})
    with pytest.raises(CheckpointMismatchError, match=r"average of model\.a"):
        unwrap(content | {"ema": {"shadow_params": [torch.zeros(3), torch.zeros(3)]}})
