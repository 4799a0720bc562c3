import base64
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.core.settings import ENV_PREFIX, Settings, load_settings

GOOD_SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
ROOT = Path(__file__).resolve().parents[4]
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(64)).decode()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in os.environ:
        if name.upper().startswith(ENV_PREFIX):
            monkeypatch.delenv(name)
    return monkeypatch


def test_nothing_set_is_the_defaults():
    assert load_settings() == Settings()
    assert load_settings().model_repository == Path("model_repository")


def test_outside_the_checkout_the_bundle_is_the_one_in_it(environment, tmp_path):
    environment.chdir(tmp_path)
    assert load_settings().model_repository == ROOT / "model_repository"
    environment.setenv("LATENT_PMRF_MODEL_REPOSITORY", "elsewhere")
    assert load_settings().model_repository == Path("elsewhere")
    environment.delenv("LATENT_PMRF_MODEL_REPOSITORY")
    (tmp_path / "model_repository").mkdir()
    assert load_settings().model_repository == Path("model_repository")


def test_values_are_read_in_their_types(environment):
    environment.setenv("LATENT_PMRF_MODEL_REPOSITORY", "/models")
    environment.setenv("LATENT_PMRF_MAX_FACES", "3")
    environment.setenv("LATENT_PMRF_REQUEST_TIMEOUT_S", "1.5")
    environment.setenv("latent_pmrf_slots", "7")
    settings = load_settings()
    assert (settings.model_repository, settings.max_faces) == (Path("/models"), 3)
    assert (settings.request_timeout_s, settings.slots) == (1.5, 7)


@pytest.mark.parametrize("name", ["LATENT_PMRF_MAX_FACE", "latent_pmrf_max_face", "LATENT_PMRF_"])
def test_a_misspelt_name_is_an_error_that_names_it(environment, name):
    environment.setenv(name, "3")
    with pytest.raises(ValueError, match=f"unknown.*{name}"):
        load_settings()


def test_a_misspelt_name_is_told_which_may_be_meant(environment):
    environment.setenv("LATENT_PMRF_REDIS_URLS", "redis://localhost")
    environment.setenv("LATENT_PMRF_FRUIT", "3")
    with pytest.raises(ValueError, match=r"FRUIT, LATENT_PMRF_REDIS_URLS \(did you mean LATENT_PMRF_REDIS_URL\?\)$"):
        load_settings()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_faces", "0"),
        ("max_faces", "many"),
        ("max_faces", ""),
        ("max_upload_bytes", "1.5"),
        ("inference_threads", "-1"),
        ("result_cache_bytes", "-1"),
        ("request_timeout_s", "0"),
        ("request_timeout_s", "inf"),
        ("result_ttl_s", "nan"),
        ("slots", "0"),
        ("cpu_workers", "0"),
        ("job_photos", "0"),
        ("job_timeout_s", "inf"),
        ("lease_s", "0"),
        ("max_deliveries", "0"),
        ("payload_ttl_s", "inf"),
        ("redis_url", "localhost:6379"),
        ("redis_prefix", "latent-pmrf"),
        ("redis_prefix", "{}"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_variable(environment, field, value):
    name = f"{ENV_PREFIX}{field.upper()}"
    environment.setenv(name, value)
    with pytest.raises(ValueError, match=rf"{name}: (Value error, )?(Input|String) should"):
        load_settings()


def test_the_address_of_the_shared_queue_is_read_and_not_shown(environment):
    environment.setenv("LATENT_PMRF_REDIS_URL", " rediss://user:pa55@queue:6380/1 ")
    settings = load_settings()
    assert settings.redis_url.get_secret_value() == "rediss://user:pa55@queue:6380/1"
    assert "pa55" not in repr(settings)
    environment.setenv("LATENT_PMRF_REDIS_URL", " ")
    assert load_settings().redis_url is None


@pytest.mark.parametrize("text", ["", "  ", GOOD_SECRET, f"{GOOD_SECRET} {OTHER_SECRET}"])
def test_secrets_of_webhooks(environment, text):
    environment.setenv("LATENT_PMRF_WEBHOOK_SECRET", text)
    secret = load_settings().webhook_secret
    assert (None if secret is None else secret.get_secret_value()) == (text.strip() or None)
    assert GOOD_SECRET not in repr(load_settings())


@pytest.mark.parametrize("text", ["secret", GOOD_SECRET[6:], "whsec_c2hvcnQ=", "whsec_???", f"{GOOD_SECRET} whsec_"])
def test_a_wrong_secret_is_refused_and_not_shown(environment, text):
    environment.setenv("LATENT_PMRF_WEBHOOK_SECRET", text)
    with pytest.raises(ValueError, match=r"WEBHOOK_SECRET: .*whsec_ and the base64") as told:
        load_settings()
    assert GOOD_SECRET not in str(told.value)


def test_networks_of_webhooks(environment):
    environment.setenv("LATENT_PMRF_WEBHOOK_NETWORKS", "127.0.0.0/8, ::1/128")
    assert load_settings().webhook_networks == "127.0.0.0/8, ::1/128"
    environment.setenv("LATENT_PMRF_WEBHOOK_NETWORKS", "127.0.0.1/8")
    with pytest.raises(ValueError, match=r"WEBHOOK_NETWORKS: .*127"):
        load_settings()


def test_every_wrong_value_is_named(environment):
    environment.setenv("LATENT_PMRF_SLOTS", "0")
    environment.setenv("LATENT_PMRF_MAX_FACES", "x")
    with pytest.raises(ValueError, match=r"MAX_FACES.*SLOTS"):
        load_settings()


def test_settings_do_not_change_and_take_no_unknown_name():
    with pytest.raises(ValidationError):
        Settings().slots = 2
    with pytest.raises(ValidationError):
        Settings(max_face=2)


def test_triton_servers_are_read_one_by_one(environment):
    environment.setenv("LATENT_PMRF_TRITON_URLS", " grpc://triton-0:8001, grpcs://10.0.0.7:8001,grpc://[::1]:8001 ,")
    assert load_settings().triton_addresses == ("grpc://triton-0:8001", "grpcs://10.0.0.7:8001", "grpc://[::1]:8001")
    environment.setenv("LATENT_PMRF_TRITON_URLS", "")
    assert load_settings().triton_addresses == ()


@pytest.mark.parametrize("url", ["triton:8001", "http://triton:8000", "grpc://triton", "grpc://a:1 grpc://b:1"])
def test_an_address_that_is_no_triton_server_is_refused(environment, url):
    environment.setenv("LATENT_PMRF_TRITON_URLS", url)
    with pytest.raises(ValueError, match=r"TRITON_URLS.*grpc://triton:8001"):
        load_settings()


def test_origins_are_read_one_by_one(environment):
    environment.setenv("LATENT_PMRF_CORS_ORIGINS", " https://app.example, http://localhost:3000,")
    assert load_settings().allowed_origins == ("https://app.example", "http://localhost:3000")
    environment.setenv("LATENT_PMRF_CORS_ORIGINS", "*")
    assert load_settings().allowed_origins == ("*",)
    environment.setenv("LATENT_PMRF_CORS_ORIGINS", "")
    assert load_settings().allowed_origins == ()


@pytest.mark.parametrize(
    "origin",
    [
        "app.example",
        "https://app.example/",
        "https://App.example",
        "https://*.example",
        "null",
        "https://",
        "file:///a",
    ],
)
def test_what_no_browser_sends_as_an_origin_is_refused(environment, origin):
    environment.setenv("LATENT_PMRF_CORS_ORIGINS", f"https://app.example,{origin}")
    with pytest.raises(ValueError, match=r"CORS_ORIGINS: .*Input should be origins"):
        load_settings()


def test_the_key_that_a_batch_shows_is_not_shown_by_the_settings(environment):
    environment.setenv("LATENT_PMRF_API_KEY", "lpmrf_00000000_secret")
    assert "lpmrf_00000000_secret" not in repr(load_settings())


def test_an_empty_name_of_a_keys_file_is_not_taken_for_an_open_service(environment):
    environment.setenv("LATENT_PMRF_API_KEYS_FILE", "")
    assert load_settings().api_keys_file is not None
