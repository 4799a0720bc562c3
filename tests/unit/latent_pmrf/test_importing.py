import re

import pytest
import torch

from latent_pmrf.cli import main
from latent_pmrf.nets.build import build
from latent_pmrf.training.checkpoint import load_weights
from tests.public_files import (
    LOOFORMER,
    PMRF,
    SIM_VAE,
    SWINIR,
    pmrf_tensors,
    public_tensors,
    write_json,
    write_pmrf,
    write_tensors,
)

STAGES = ("estimator", "vae", "flow")


def run_import(runs, **files):
    """The command, with options of these names."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in files.items()]
    return main(["import", "--runs", str(runs), *arguments])


def refused(runs, capsys, **files):
    """What the command says when it refuses; it must not have written anything."""
    before = list(runs.rglob("*"))
    assert run_import(runs, **files) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.endswith("; nothing was written\n")
    assert list(runs.rglob("*")) == before
    return error


def assert_says(error, *patterns):
    assert [pattern for pattern in patterns if not re.search(pattern, error)] == [], error


def written(runs):
    return {stage: load_weights(path) for stage in STAGES if (path := runs / stage / "weights.safetensors").exists()}


def same_network(weights, network):
    build(weights.config).load_state_dict(weights.state_dict)
    expected = network.state_dict()
    return weights.config == network.config and all(
        torch.equal(value, expected[name]) for name, value in weights.state_dict.items()
    )


def write_vae(folder, **changes):
    write_json(folder / "config.json", SIM_VAE | changes)
    return write_tensors(folder / "diffusion_pytorch_model.safetensors", public_tensors("sim_vae")[0])


@pytest.fixture
def pmrf(tmp_path):
    return write_pmrf(tmp_path / "pmrf")


@pytest.fixture
def latent(tmp_path):
    """Options for the three files of a Latent-PMRF."""
    for name in ("estimator", "vae", "flow"):
        (tmp_path / name).mkdir()
    torch.save({"params_ema": public_tensors("swinir")[0]}, tmp_path / "estimator" / "swinir.pth")
    write_json(tmp_path / "flow" / "config.json", LOOFORMER)
    return {
        "estimator": tmp_path / "estimator" / "swinir.pth",
        "estimator_config": write_json(tmp_path / "estimator" / "swinir.json", SWINIR),
        "vae": write_vae(tmp_path / "vae"),
        "flow": write_tensors(tmp_path / "flow" / "model.safetensors", public_tensors("looformer")[0]),
    }


def test_pmrf_s_file_gives_a_flow_on_pixels_and_its_estimator(pmrf, tmp_path):
    assert run_import(tmp_path / "runs", pmrf=pmrf) == 0
    found = written(tmp_path / "runs")
    assert same_network(found["flow"], public_tensors("pmrf", seed=1)[1])
    assert same_network(found["estimator"], public_tensors("swinir", seed=2)[1])
    assert "vae" not in found
    facts = found["flow"].info
    assert (facts["space"], facts["sigma_s"]) == ("pixel", [0.2])
    assert (facts["latent_mean"], facts["latent_std"]) == ([0, 0, 0], [1, 1, 1])


def test_latent_pmrf_s_files_give_a_flow_on_scaled_latents(latent, tmp_path):
    assert run_import(tmp_path / "runs", **latent) == 0
    found = written(tmp_path / "runs")
    for stage, name in zip(STAGES, ("swinir", "sim_vae", "looformer"), strict=True):
        assert same_network(found[stage], public_tensors(name)[1])
    assert found["flow"].config.time_convention == "sigma"
    facts = found["flow"].info
    assert (facts["space"], facts["sigma_s"]) == ("latent", [0.1])
    assert (facts["latent_mean"], facts["latent_std"]) == ([0.25] * 4, [2.0] * 4)


@pytest.mark.parametrize(
    ("scaling", "mean", "std"),
    [
        ({"scaling_factor": None, "shift_factor": None}, [0.0] * 4, [1.0] * 4),
        ({"scaling_factor": [1, 2, 4, 8], "shift_factor": None}, [0.0] * 4, [1, 0.5, 0.25, 0.125]),
    ],
)
def test_scale_and_shift_may_be_absent_or_differ_by_channel(latent, tmp_path, scaling, mean, std):
    write_json(latent["vae"].with_name("config.json"), SIM_VAE | scaling)
    assert run_import(tmp_path / "runs", **latent) == 0
    facts = written(tmp_path / "runs")["flow"].info
    assert (facts["latent_mean"], facts["latent_std"]) == (mean, std)


def test_networks_may_come_one_by_one_and_their_origin_is_noted(latent, pmrf, tmp_path):
    runs = tmp_path / "runs"
    assert run_import(runs, vae=latent["vae"]) == 0
    assert run_import(runs, estimator=latent["estimator"], estimator_config=latent["estimator_config"]) == 0
    assert set(written(runs)) == {"estimator", "vae"}
    assert run_import(tmp_path / "other", pmrf=pmrf) == 0
    infos = {"vae": written(runs)["vae"].info} | {k: w.info for k, w in written(tmp_path / "other").items()}
    assert [infos[stage]["imported"]["file"] for stage in ("vae", "flow")] == [latent["vae"].name, "model.safetensors"]
    assert infos["flow"]["licence"] == "MIT"
    assert "non-commercial" in infos["estimator"]["licence"]
    assert len({info["imported"]["sha256"] for info in infos.values()}) == 2


def test_an_estimator_of_its_own_file_wins_over_pmrf_s(latent, pmrf, tmp_path):
    files = {"estimator": latent["estimator"], "estimator_config": latent["estimator_config"]}
    assert run_import(tmp_path / "runs", pmrf=pmrf, **files) == 0
    assert same_network(written(tmp_path / "runs")["estimator"], public_tensors("swinir")[1])


def test_the_noise_may_be_chosen(pmrf, tmp_path):
    assert run_import(tmp_path / "runs", pmrf=pmrf, sigma_s=0.05) == 0
    assert written(tmp_path / "runs")["flow"].info["sigma_s"] == [0.05]


def test_metrics_in_pmrf_s_file_are_passed_over_and_told(pmrf, tmp_path, caplog):
    caplog.set_level("INFO")
    assert run_import(tmp_path / "runs", pmrf=pmrf) == 0
    assert "passed over what is under fid" in caplog.text


def test_pmrf_s_training_checkpoint_gives_the_averaged_flow(pmrf, tmp_path):
    state = pmrf_tensors()
    buffers = ("freqs", "time_emb.weight", "aug_emb.weight")
    shadow = [2 * value for name, value in state.items() if name.startswith("model.") and not name.endswith(buffers)]
    torch.save({"state_dict": state, "ema": {"shadow_params": shadow}, "epoch": 9}, tmp_path / "last.ckpt")
    assert run_import(tmp_path / "runs", pmrf=tmp_path / "last.ckpt", pmrf_config=pmrf.with_name("config.json")) == 0
    found, raw = written(tmp_path / "runs")["flow"].state_dict, public_tensors("pmrf", seed=1)[1].state_dict()
    assert torch.equal(found["proj_in.proj.weight"], 2 * raw["proj_in.proj.weight"])
    assert torch.equal(found["time_proj.weight"], raw["time_proj.weight"])


def test_every_key_that_does_not_fit_is_named_with_its_file(pmrf, tmp_path, capsys):
    tensors = pmrf_tensors()
    del tensors["model.mapping.out_norm.scale"]
    tensors["model.patch_in.proj.weight"] = torch.zeros(2, 2)
    tensors["model.of_another_network"] = torch.zeros(1)
    write_tensors(pmrf, tensors)
    error = refused(tmp_path / "runs", capsys, pmrf=pmrf)
    assert str(pmrf) in error
    assert "unknown: of_another_network" in error
    assert "missing: mapping.out_norm.scale" in error
    assert "misshaped: patch_in.proj.weight (2, 2) instead of (16, 48)" in error


def test_nothing_is_written_when_the_last_of_several_files_does_not_fit(latent, tmp_path, capsys):
    write_tensors(latent["flow"], {"proj_in.proj.weight": torch.zeros(1)})
    assert str(latent["flow"]) in refused(tmp_path / "runs", capsys, **latent)


def test_weights_that_are_there_are_not_replaced(pmrf, tmp_path, capsys):
    assert run_import(tmp_path / "runs", pmrf=pmrf) == 0
    assert "estimator/weights.safetensors" in refused(tmp_path / "runs", capsys, pmrf=pmrf)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"norm_type": "group_norm"}, "norm_type 'group_norm' instead of 'layer_norm'"),
        ({"upsample_method": "pixel_shuffle", "norm_pos": "post_norm"}, "norm_pos 'post_norm'.*upsample_method"),
        ({"_class_name": "AutoencoderKL"}, "_class_name 'AutoencoderKL'"),
        ({"mid_block_out_channel": 16}, "mid_block_out_channel 16 instead of 12"),
        ({"scaling_factor": [1.0, 2.0]}, "scaling_factor has 2 entries for 4 channels"),
        ({"scaling_factor": 0}, "scaling_factor must be positive"),
    ],
)
def test_variants_of_the_autoencoder_that_are_not_ours_are_refused(tmp_path, capsys, config, message):
    vae = write_vae(tmp_path / "vae", **config)
    assert_says(refused(tmp_path / "runs", capsys, vae=vae), str(vae), message)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"arch": "hdit_Huge"}, "arch 'hdit_Huge' is not supported; known are hdit_ImageNet256Sp4, hdit_XL2"),
        ({"mmse_model_arch": "swinir_S"}, "mmse_model_arch 'swinir_S'"),
        ({"conditional": True, "eps": 0.1}, "conditional True instead of False; eps 0.1"),
        ({"patch_size": [4, 2]}, "patch_size"),
        ({"self_attns": [{"type": "neighborhood", "kernel_size": k} for k in (5, 7)]}, r"kernel_size .* \[5, 7\]"),
        ({"self_attns": [{"type": "shifted-window", "kernel_size": 7}]}, "one entry per level|attention"),
    ],
)
def test_variants_of_pmrf_that_are_not_ours_are_refused(pmrf, tmp_path, capsys, config, message):
    write_json(pmrf.with_name("config.json"), PMRF | config)
    assert_says(refused(tmp_path / "runs", capsys, pmrf=pmrf), str(pmrf), message)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dwconv_type": "none"}, "dwconv_type 'none' instead of 'dwconv'"),
        ({"in_channels": 8, "out_channels": 8}, "8 channels, but the latent has 4"),
        ({"window_sizes": [7, 9, 7]}, r"window_sizes .* \[7, 9\]"),
    ],
)
def test_variants_of_the_latent_flow_that_are_not_ours_are_refused(latent, tmp_path, capsys, config, message):
    write_json(latent["flow"].with_name("config.json"), LOOFORMER | config)
    assert_says(refused(tmp_path / "runs", capsys, **latent), str(latent["flow"]), message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to import"),
        ({"pmrf": "a.ckpt", "vae": "b.ckpt"}, "PMRF's flow works on pixels"),
        ({"flow": "a.ckpt"}, "needs the autoencoder"),
        ({"vae_config": "a.json"}, "--vae-config needs --vae"),
        ({"estimator": "a.ckpt", "sigma_s": -1}, "sigma_s must be at least 0"),
        ({"estimator": "absent.pth"}, "No such file"),
        ({"estimator": "a.onnx"}, r"only \.safetensors, \.pth and \.ckpt files are read"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, capsys, options, message):
    assert_says(refused(tmp_path / "runs", capsys, **options), message)


def test_an_autoencoder_without_its_scaling_is_refused(tmp_path, capsys):
    vae = write_vae(tmp_path / "vae")
    vae.with_name("config.json").unlink()
    assert "config.json is needed" in refused(tmp_path / "runs", capsys, vae=vae)


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "holds no object")])
def test_a_configuration_that_is_none_is_refused(pmrf, tmp_path, capsys, text, message):
    pmrf.with_name("config.json").write_text(text)
    assert message in refused(tmp_path / "runs", capsys, pmrf=pmrf)


def test_weights_that_are_no_numbers_are_refused(latent, tmp_path, capsys):
    tensors = dict(public_tensors("sim_vae")[0])
    tensors["decoder.conv_out.bias"] = torch.tensor([0.0, float("nan"), 0.0])
    write_tensors(latent["vae"], tensors)
    error = refused(tmp_path / "runs", capsys, **latent)
    assert_says(error, r"diffusion_pytorch_model\.safetensors: decoder\.conv_out\.bias is not finite")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"latent_channels": "4"}, r"SimVAEConfig\.latent_channels cannot be '4'"),
        ({"block_out_channels": 8}, "block_out_channels cannot be 8"),
        ({"layers_per_block": None}, r"SimVAEConfig\.layers_per_block cannot be None"),
    ],
)
def test_a_configuration_of_other_types_is_refused_by_name(latent, tmp_path, capsys, changes, named):
    write_json(latent["vae"].with_name("config.json"), SIM_VAE | changes)
    assert_says(refused(tmp_path / "runs", capsys, **latent), named)


def test_an_average_without_its_names_is_refused(tmp_path, capsys):
    torch.save({"ema": {"shadow_params": [torch.zeros(2)]}}, tmp_path / "pmrf.ckpt")
    error = refused(tmp_path / "runs", capsys, pmrf=tmp_path / "pmrf.ckpt")
    assert_says(error, r"pmrf\.ckpt: it holds averaged weights under 'ema', and no 'state_dict'")
