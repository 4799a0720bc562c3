"""No container engine runs here: what images and compose files say is read, and held against the code it speaks of."""

import re
import urllib.parse

import pytest
import yaml
from compose_spec import PyOptions

from service.api.operations import router as operations
from service.cli import main
from service.composition.probes import Probes
from service.core.metrics import Metrics
from service.core.origin import Origin
from service.core.settings import ENV_PREFIX, LogFormat, Settings
from service.core.tracing import exemplar, within
from tests.images import DOCKER, FILE_OF, fill, is_in_context, read_compose, read_image
from tests.processes import ROOT

OURS = ("gateway", "worker")
IMAGES = tuple(FILE_OF)
PINNED = re.compile(r"\S+:[\w.-]+@sha256:[0-9a-f]{64}")
NEEDED = {"GRAFANA_PASSWORD": "secret", "KEYS_FOLDER": "./prometheus"}
COMPOSITIONS = {
    "cpu": ("compose.yaml",),
    "gpu": ("compose.yaml", "compose.gpu.yaml"),
    "tracing": ("compose.yaml", "compose.tracing.yaml"),
    "keys": ("compose.yaml", "compose.keys.yaml"),
}
NOT_ASKED_FOR_HEALTH = {"tempo"}  # nothing in its image could ask
OF_OPENTELEMETRY = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"}


@pytest.fixture(params=IMAGES)
def image(request):
    return request.param, *read_image(request.param)


@pytest.fixture(params=COMPOSITIONS)
def services(request):
    return read_compose(*COMPOSITIONS[request.param], variables=NEEDED)["services"]


def health_url(words):
    return re.search(r"http://127\.0\.0\.1:(\d+)(/[\w/-]*)", " ".join(words)).groups()


# Dockerfiles


def test_what_is_copied_exists_and_is_sent_to_the_builder(image):
    _, build, last = image
    for stage in (build, last):
        for copy in stage.all("COPY"):
            if "from" in copy.flags:
                assert (stage, copy.flags["from"]) == (last, "build")
                continue
            for source in copy.words[:-1]:
                assert (ROOT / source).exists(), source
                assert is_in_context(source), source


def test_history_environments_and_secrets_are_not_sent():
    for path in (".git/config", ".venv/bin/python", "runs/xs/flow", "docker/.env", "tests/images.py", "service/x.pyc"):
        assert is_in_context(path) == (path == "service/x.pyc")
    assert not is_in_context("service/__pycache__")
    assert not is_in_context("model_repository/detector/1/model.onnx")


def test_python_s_image_is_pinned_by_a_digest_that_can_be_given(image):
    _, build, _ = image
    assert PINNED.fullmatch(build.base)


def test_triton_s_image_names_its_release():
    assert re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", read_image("triton")[-1].base)


def test_the_last_stage_only_copies_and_runs_as_nobody_special(image):
    *_, last = image
    assert last.all("RUN") == last.all("ADD") == []  # no installer, no compiler, nothing left of the build
    user, _, group = last.last("USER").rest.partition(":")
    assert int(user) >= 1000
    assert int(group) >= 1000
    assert all(copy.flags.get("from") == "build" for copy in last.all("COPY"))


def test_labels_say_what_the_image_is(image):
    name, _, last = image
    labels = dict(re.findall(r'([\w.-]+)="([^"]*)"', " ".join(label.rest for label in last.all("LABEL"))))
    assert labels["org.opencontainers.image.title"] == f"latent-pmrf-{name}"
    prefix = "org.opencontainers.image."
    assert {f"{prefix}{key}" for key in ("description", "licenses", "version", "revision", "created")} <= set(labels)
    arguments = {argument.rest.partition("=")[0] for argument in last.all("ARG")}
    used = {match for value in labels.values() for match in re.findall(r"\$\{(\w+)\}", value)}
    assert used <= arguments


@pytest.mark.parametrize("name", OURS)
def test_the_package_is_installed_by_the_lock_with_wheels_only_and_without_an_installer_left(name):
    build, _ = read_image(name)
    commands = " ".join(run.rest for run in build.all("RUN"))
    assert "pip install --constraint constraints.txt '.[triton,tracing]'" in commands
    assert "PIP_ONLY_BINARY=:all:" in build.last("ENV").rest
    assert commands.rstrip().endswith("pip uninstall --yes pip setuptools")


@pytest.mark.parametrize("name", OURS)
def test_the_command_is_one_of_the_service_s_and_listens_where_the_image_says(name, monkeypatch, capsys):
    _, last = read_image(name)
    assert last.last("ENTRYPOINT").words == ["/opt/latent-pmrf/bin/latent-pmrf"]
    for variable, value in last.environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as stopped:
        main([*last.last("CMD").words, "--help"])
    assert stopped.value.code == 0
    assert "usage: latent-pmrf" in capsys.readouterr().out
    port, _ = health_url(last.last("HEALTHCHECK").words)
    assert port in last.last("EXPOSE").words
    assert port == last.environment["PORT" if name == "gateway" else "METRICS_PORT"]
    assert {key for key in last.environment if key.startswith(ENV_PREFIX)} <= variables_of_the_service()


# Compose


def variables_of_the_service():
    return {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}


@pytest.mark.parametrize("files", COMPOSITIONS.values(), ids=COMPOSITIONS)
def test_compose_files_are_what_the_specification_allows(files):
    options = PyOptions(apply_merge=True)
    for name in files:
        text = fill((DOCKER / name).read_text(), NEEDED)
        # This reader knows images by tag or by digest; Docker knows them by both, and takes the digest.
        options.from_yaml(re.sub(r":[\w.-]+@sha256", "@sha256", text)).validate()


def test_a_misspelt_compose_file_is_refused():
    with pytest.raises(ValueError, match="healthcheckk"):
        PyOptions().from_yaml("services: {a: {image: b, healthcheckk: {}}}")


def test_everything_the_service_needs_is_there(services):
    assert set(services) - {"tempo"} == {"redis", "triton", "worker", "gateway", "prometheus", "grafana"}


def test_a_password_must_be_given():
    with pytest.raises(KeyError, match="GRAFANA_PASSWORD"):
        read_compose("compose.yaml")


def test_nothing_starts_before_what_it_needs_is_healthy(services):
    for each, service in services.items():
        assert ("healthcheck" in service) == (each not in NOT_ASKED_FOR_HEALTH)
        for name, needed in service.get("depends_on", {}).items():
            assert needed == {"condition": "service_healthy"}
            assert "healthcheck" in services[name]
    assert set(services["gateway"]["depends_on"]) == {"redis", "triton", "worker"}
    assert set(services["worker"]["depends_on"]) == {"redis", "triton"}


def test_containers_are_hardened(services):
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_only_loopback_is_published_and_only_by_gateway_and_grafana(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"gateway", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_images_are_those_that_the_dockerfiles_build(services):
    for name in IMAGES:
        build = services[name]["build"]
        file = DOCKER / FILE_OF[name]
        assert (DOCKER / build["context"] / build["dockerfile"]).resolve() == file
        assert build["target"] == name
        assert all(re.search(rf"^ARG {argument}=", file.read_text(), re.MULTILINE) for argument in build["args"])
        assert build["args"]["PYTHON_IMAGE"] == read_image(name)[0].base
    assert services["triton"]["build"]["args"]["TRITON_IMAGE"] == read_image("triton")[-1].base


@pytest.mark.parametrize("name", OURS)
def test_settings_are_the_service_s_and_lead_to_services_that_are_there(name, services, monkeypatch):
    environment = services[name]["environment"]
    assert set(environment) <= variables_of_the_service() | OF_OPENTELEMETRY
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    settings = Settings()
    redis = urllib.parse.urlsplit(settings.redis_url.get_secret_value())
    assert (redis.hostname, redis.port) == ("redis", 6379)
    triton = [urllib.parse.urlsplit(address) for address in settings.triton_addresses]
    exposed = read_image("triton")[-1].last("EXPOSE").words
    assert [(url.scheme, url.hostname, str(url.port) in exposed) for url in triton] == [("grpc", "triton", True)]
    shared = [set(services[one]["networks"]) for one in (name, "redis", "triton")]
    assert set.intersection(*shared) == {"inside"}
    grace_s = float(services[name]["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings.grace_s + 10  # a container that is killed first hands nothing back


def test_redis_never_evicts_and_keeps_what_it_has_confirmed(services):
    command = services["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options == {
        "--appendonly": "yes",
        "--appendfsync": "always",
        "--maxmemory": "1gb",  # beyond it work is refused; without it the kernel would end some process
        "--maxmemory-policy": "noeviction",
    }


async def test_health_is_asked_where_it_is_answered(services):
    assert health_url(services["gateway"]["healthcheck"]["test"]) == ("8000", "/readyz")
    assert "/readyz" in {route.path for route in operations.routes}
    port, path = health_url(services["worker"]["healthcheck"]["test"])
    assert port == "8001"

    async def no_reasons():
        return []

    answers = []

    async def send(message):
        answers.append(message)

    await Probes(no_reasons, Metrics())({"type": "http", "method": "GET", "path": path}, None, send)
    assert answers[0]["status"] == 200


def test_everybody_reads_the_same_bundle_with_a_gpu():
    services = read_compose(*COMPOSITIONS["gpu"], variables=NEEDED | {"MODEL_REPOSITORY": "/engines"})["services"]
    assert services["triton"]["volumes"] == ["/engines:/models:ro"]
    for name in OURS:
        place = read_image(name)[-1].environment[f"{ENV_PREFIX}MODEL_REPOSITORY"]
        assert services[name]["volumes"] == [f"/engines:{place}:ro"]
    assert "--model-config-name=gpu" in services["triton"]["command"]
    assert (ROOT / "model_repository" / "velocity" / "configs" / "gpu.pbtxt").exists()


@pytest.mark.parametrize("files", COMPOSITIONS.values(), ids=COMPOSITIONS)
def test_mounted_folders_exist_and_named_volumes_are_declared(files):
    composed = read_compose(*files, variables=NEEDED)
    for service in composed["services"].values():
        for source in (volume.partition(":")[0] for volume in service.get("volumes", ())):
            if source.startswith("."):
                assert (DOCKER / source).resolve().is_dir(), source
            else:
                assert source in composed["volumes"], source


# What watches


def test_prometheus_asks_services_that_are_there_at_ports_they_have(services):
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    assert all((DOCKER / "prometheus" / name).is_file() for name in config["rule_files"])
    asked = {}
    for job in config["scrape_configs"]:
        for target in (target for group in job.get("static_configs", ()) for target in group["targets"]):
            asked[job["job_name"]] = tuple(target.split(":"))
        for group in job.get("dns_sd_configs", ()):
            asked[job["job_name"]] = (group["names"][0], str(group["port"]))
    assert asked == {
        f"latent-pmrf-{name}": (name, port) for name, port in zip(IMAGES, ("8000", "8001", "8002"), strict=True)
    }
    for name, port in asked.values():
        assert port in read_image(name)[-1].last("EXPOSE").words
        assert set(services["prometheus"]["networks"]) & set(services[name]["networks"])


def test_grafana_reads_the_prometheus_that_is_there(services):
    folder = DOCKER / "grafana" / "provisioning"
    source = yaml.safe_load((folder / "datasources" / "latent_pmrf.yml").read_text())["datasources"][0]
    url = urllib.parse.urlsplit(source["url"])
    assert url.hostname in services
    assert health_url(services[url.hostname]["healthcheck"]["test"])[0] == str(url.port)
    dashboards = yaml.safe_load((folder / "dashboards" / "latent_pmrf.yml").read_text())["providers"][0]
    assert f"./grafana/dashboards:{dashboards['options']['path']}:ro" in services["grafana"]["volumes"]


def test_spans_go_where_grafana_looks_for_those_that_exemplars_name():
    services = read_compose(*COMPOSITIONS["tracing"], variables=NEEDED)["services"]
    folder = DOCKER / "grafana" / "provisioning" / "datasources"
    sources = {
        source["uid"]: source for source in yaml.safe_load((folder / "latent_pmrf.yml").read_text())["datasources"]
    }
    tempo = yaml.safe_load((DOCKER / "tempo" / "tempo.yml").read_text())
    taken = tempo["distributor"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    for name in OURS:
        endpoint = urllib.parse.urlsplit(services[name]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"])
        assert (endpoint.hostname, f"0.0.0.0:{endpoint.port}") == ("tempo", taken)
        assert set(services[name]["networks"]) & set(services["tempo"]["networks"])
        assert f"{ENV_PREFIX}REDIS_URL" in services[name]["environment"]  # variables are added, not replaced
    looked = urllib.parse.urlsplit(sources["tempo"]["url"])
    assert (looked.hostname, looked.port) == ("tempo", tempo["server"]["http_listen_port"])
    (link,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert link["datasourceUid"] == "tempo"
    with within(Origin("", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")):
        assert set(exemplar()) == {link["name"]}
    assert "--enable-feature=exemplar-storage" in services["prometheus"]["command"]
    kept = {tempo["storage"]["trace"][place]["path"] for place in ("local", "wal")}
    assert all(path.startswith("/var/tempo/") for path in kept)
    assert "tempo:/var/tempo" in services["tempo"]["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_containers_write_logs_for_machines(name):
    assert LogFormat(read_image(name)[-1].environment[f"{ENV_PREFIX}LOG_FORMAT"]) is LogFormat.JSON
