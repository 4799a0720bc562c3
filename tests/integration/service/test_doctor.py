"""`latent-pmrf doctor` on installations that work and on ones that do not, with real files, networks and servers."""

import json
import re
import shutil
import socket
import time
from types import SimpleNamespace

import pytest

from service.cli import main
from tests.fleet import Fleet
from tests.processes import ROOT, only_these, until
from tests.redis_servers import RedisServer, durable_server, require_binary

OK, FAILED, USAGE, BAD_BUNDLE = range(4)
CHECKS = ["machine", "settings", "bundle", "networks", "queue", "restoration"]


@pytest.fixture
def examine(arithmetic_bundle, monkeypatch, capsys):
    """Run the command in this process; returns its exit status and the findings by check."""

    def examine(**settings):
        only_these(monkeypatch, **{"model_repository": arithmetic_bundle, **settings})
        status = main(["doctor", "--json"])
        findings = json.loads(capsys.readouterr().out)
        assert [finding["check"] for finding in findings] == CHECKS
        return status, {finding["check"]: finding for finding in findings}

    return examine


@pytest.fixture
def altered(arithmetic_bundle, tmp_path):
    """A copy of the bundle that may be spoiled."""
    return shutil.copytree(arithmetic_bundle, tmp_path / "altered")


@pytest.fixture
def redis(tmp_path_factory):
    """Starts servers with settings of their own."""
    servers = []

    def start(*settings):
        servers.append(RedisServer(require_binary("6.2"), tmp_path_factory.mktemp("r"), *settings))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def test_a_sound_installation_is_told_to_be_sound(examine):
    status, found = examine()
    assert status == OK
    verdicts = {check: finding["verdict"] for check, finding in found.items()}
    assert {**verdicts, "machine": "ok"} == {**dict.fromkeys(CHECKS, "ok"), "queue": "skipped"}
    assert "a drawn face was found and restored" in found["restoration"]["detail"]


def test_the_repository_s_own_bundle_is_sound(examine):
    status, found = examine(model_repository=ROOT / "model_repository")
    assert status == OK, found


@pytest.mark.parametrize("tiles", [True, False])
def test_a_processor_with_amx_is_not_left_to_onnxruntime_in_silence(examine, monkeypatch, tiles):
    monkeypatch.setattr("service.doctor.checks.has_bfloat16_tiles", lambda: tiles)
    status, found = examine()
    assert status == OK
    assert ("INFERENCE_RUNTIME=openvino" in found["networks"]["detail"]) is tiles


def test_networks_in_openvino_are_sound(examine):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    status, found = examine(inference_runtime="openvino")
    assert status == OK, found
    assert re.match("OpenVINO, (float32|bfloat16);", found["networks"]["detail"])


def test_it_is_told_in_lines_that_say_what_to_do(examine, altered, capsys):
    (altered / "detector" / "1" / "model.onnx").unlink()
    examine(model_repository=altered)
    assert main(["doctor"]) == FAILED
    lines = capsys.readouterr().out.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("failed   networks")]
    assert lines[at + 1].strip().startswith("-> run `make install`, which fetches it")
    assert lines[-1] == "1 of 6 checks failed."


def test_an_altered_network_is_found_by_its_hash(examine, altered):
    file = altered / "velocity" / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    status, found = examine(model_repository=altered)
    assert status == FAILED
    assert found["bundle"]["verdict"] == "failed"
    assert "networks.velocity.sha256" in found["bundle"]["detail"]
    assert found["bundle"]["remedy"]
    assert {found["networks"]["verdict"], found["restoration"]["verdict"]} == {"skipped"}


def test_a_network_of_another_signature_is_found(examine, altered):
    manifest = json.loads((altered / "manifest.json").read_text())
    manifest["networks"]["velocity"]["inputs"][0]["name"] = "another"
    (altered / "manifest.json").write_text(json.dumps(manifest))
    status, found = examine(model_repository=altered)
    assert status == FAILED
    assert "networks.velocity.inputs[0].name" in found["networks"]["detail"]
    assert found["restoration"]["verdict"] == "skipped"


@pytest.mark.parametrize(
    ("settings", "verdict", "told"),
    [
        (["--maxmemory-policy", "allkeys-lru"], "failed", "noeviction"),
        (["--appendonly", "yes"], "warning", "maxmemory"),
        (["--maxmemory", "1gb"], "warning", "appendonly"),
        (["--maxmemory", "1gb", "--appendonly", "yes"], "warning", "latent-pmrf worker"),
    ],
)
def test_redis_must_keep_what_it_is_given(examine, redis, settings, verdict, told):
    status, found = examine(redis_url=redis(*settings).url)
    assert found["queue"]["verdict"] == verdict
    assert told in found["queue"]["remedy"]
    assert status == (FAILED if verdict == "failed" else OK)
    assert found["restoration"]["verdict"] == "ok"  # it is tried out without the queue of others


@pytest.mark.parametrize(("by_s", "told"), [(60.0, "60 s ahead of"), (-60.0, "60 s behind")])
def test_clocks_must_agree(examine, redis, monkeypatch, by_s, told):
    clocks = SimpleNamespace(time=lambda: time.time() + by_s, perf_counter=time.perf_counter)
    monkeypatch.setattr("service.doctor.checks.time", clocks)
    status, found = examine(redis_url=redis("--appendonly", "yes", "--maxmemory", "1gb").url)
    assert status == OK
    assert found["queue"]["verdict"] == "warning"
    assert told in found["queue"]["detail"]
    assert "NTP" in found["queue"]["remedy"]


def test_redis_must_let_us_in(examine, redis):
    server = redis()
    server.tell("CONFIG", "SET", "requirepass", "another")
    status, found = examine(redis_url=server.url)
    assert status == FAILED
    assert "Authentication required" in found["queue"]["detail"]


def test_redis_must_take_what_it_is_given(examine, redis):
    server = redis()
    server.tell("REPLICAOF", "127.0.0.1", "1")
    status, found = examine(redis_url=server.url)
    assert status == FAILED
    assert "refuses to be written to" in found["queue"]["detail"]
    assert "primary" in found["queue"]["remedy"]


def test_redis_must_answer_questions(examine, redis):
    server = redis()
    server.tell("ACL", "SETUSER", "default", "-info")
    status, found = examine(redis_url=server.url)
    assert status == FAILED
    assert "rights" in found["queue"]["remedy"]


def test_a_queue_with_a_worker_is_sound(examine, arithmetic_bundle, tmp_path, tmp_path_factory):
    server = durable_server(tmp_path_factory.mktemp("r"))
    server.start()
    server.tell("CONFIG", "SET", "maxmemory", "1gb")
    try:
        with Fleet(arithmetic_bundle, tmp_path, server) as fleet:
            fleet.start("worker")
            until(lambda: examine(redis_url=server.url)[1]["queue"]["verdict"] == "ok", pause_s=0.5)
    finally:
        server.kill()


def test_servers_that_do_not_answer_are_named(examine):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody answers there
        port = taken.getsockname()[1]
        url = f"redis://user:not-to-be-told@127.0.0.1:{port}"
        status, found = examine(redis_url=url, triton_urls=f"grpc://127.0.0.1:{port}", triton_start_timeout_s=0.5)
    assert status == FAILED
    assert "LATENT_PMRF_REDIS_URL" in found["queue"]["remedy"]
    assert f"127.0.0.1:{port}" in found["networks"]["detail"]
    assert found["restoration"]["verdict"] == "skipped"
    assert "not-to-be-told" not in json.dumps(found)


def test_files_that_settings_name_must_be_there(examine, tmp_path):
    status, found = examine(api_keys_file=tmp_path / "none")
    assert status == FAILED
    assert "LATENT_PMRF_API_KEYS_FILE" in found["settings"]["detail"]
    assert found["restoration"]["verdict"] == "ok"
