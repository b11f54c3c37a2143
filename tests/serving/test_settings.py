"""Every setting, by the names that users of other servers know; and one line for each that cannot be obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.hardware import cpu_count
from tf_toolkit.serving.settings import read_settings


def test_without_any_it_listens_where_the_platform_asks() -> None:
    settings = read_settings({})
    assert (settings.port, settings.rest_port, settings.grpc_port) == (8080, 8501, 9000)
    assert settings.model_dir == Path("/opt/ml/model")
    assert settings.default_model is None
    assert not settings.multi_model
    assert settings.batching.enabled is None
    assert (settings.timeout, settings.load_time) == (60, None)
    assert settings.max_request_bytes == 1 << 30
    assert settings.default_accept == "application/json"
    assert settings.warnings == ()


def test_an_empty_value_is_none() -> None:
    names = (
        "SAGEMAKER_BIND_TO_PORT",
        "SAGEMAKER_SAFE_PORT_RANGE",
        "SAGEMAKER_MULTI_MODEL",
        "SAGEMAKER_TFS_MAX_BATCH_SIZE",
    )
    assert read_settings(dict.fromkeys(names, "")) == read_settings({})


def test_places() -> None:
    settings = read_settings(
        {
            "SAGEMAKER_BASE_DIR": "/tree",
            "SAGEMAKER_BIND_TO_PORT": "9999",
            "SAGEMAKER_SAFE_PORT_RANGE": "9000-9001",
            "SAGEMAKER_TFS_DEFAULT_MODEL_NAME": "half_plus_two",
        }
    )
    assert settings.model_dir == Path("/tree/model")
    assert (settings.port, settings.rest_port, settings.grpc_port) == (9999, 9001, 9000)
    assert settings.default_model == "half_plus_two"


def test_the_default_model_none_is_no_name() -> None:
    assert read_settings({"SAGEMAKER_TFS_DEFAULT_MODEL_NAME": "None"}).default_model is None


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "7", "SAGEMAKER_MODEL_SERVER_TIMEOUT": "8"}, 7),
        ({"SAGEMAKER_MODEL_SERVER_TIMEOUT": "8", "SAGEMAKER_GUNICORN_TIMEOUT_SECONDS": "90"}, 8),
        ({"SAGEMAKER_GUNICORN_TIMEOUT_SECONDS": "90", "SAGEMAKER_NGINX_PROXY_READ_TIMEOUT_SECONDS": "80"}, 90),
        ({"SAGEMAKER_NGINX_PROXY_READ_TIMEOUT_SECONDS": "80"}, 80),
        ({"SAGEMAKER_BATCH": "true"}, 600),
        ({"SAGEMAKER_BATCH": "True", "SAGEMAKER_MODEL_SERVER_TIMEOUT": "8"}, 8),
    ],
)
def test_there_is_one_time_out(environ: dict[str, str], seconds: int) -> None:
    assert read_settings(environ).timeout == seconds


@pytest.mark.parametrize(("text", "enabled"), [("false", False), ("FALSE", False), ("true", True), (" ", None)])
def test_batching_may_be_turned_off(text: str, enabled: bool | None) -> None:
    assert read_settings({"SAGEMAKER_TFS_ENABLE_BATCHING": text}).batching.enabled is enabled


def test_batching_is_in_the_words_of_tensorflow_serving() -> None:
    batching = read_settings(
        {
            "SAGEMAKER_TFS_ENABLE_BATCHING": "True",
            "SAGEMAKER_TFS_MAX_BATCH_SIZE": "16",
            "SAGEMAKER_TFS_BATCH_TIMEOUT_MICROS": "0",
            "SAGEMAKER_TFS_NUM_BATCH_THREADS": "3",
            "SAGEMAKER_TFS_MAX_ENQUEUED_BATCHES": "5",
        }
    ).batching
    assert batching == (True, 16, 0, 3, 5)


def test_a_batch_transform_may_queue_as_much_as_it_likes() -> None:
    assert read_settings({"SAGEMAKER_BATCH": "true"}).batching.max_enqueued_batches == 100_000_000


def test_what_a_batch_transform_is_told() -> None:
    told = read_settings({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "90", "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "4"})
    assert (told.max_payload_mb, told.max_concurrent_transforms) == (90, 4)
    # The platform allows 100 MB in flight.
    assert read_settings({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "90"}).max_concurrent_transforms == 1
    assert read_settings({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"}).max_concurrent_transforms >= 1


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "0", "a whole number from 1 to 65535"),
        ("SAGEMAKER_BIND_TO_PORT", "65536", "a whole number from 1 to 65535"),
        ("SAGEMAKER_BIND_TO_PORT", "http", "a whole number"),
        ("SAGEMAKER_BIND_TO_PORT", "٨٠٨٠", "a whole number"),
        ("SAGEMAKER_BIND_TO_PORT", "9" * 5000, "a whole number"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "9000", "two ports"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "9001-9000", "two ports"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "9000-9000", "two ports"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "9000-99999", "two ports"),
        ("SAGEMAKER_MULTI_MODEL", "yes", "true or false"),
        ("SAGEMAKER_TFS_ENABLE_BATCHING", "1", "true or false"),
        ("SAGEMAKER_TFS_MAX_BATCH_SIZE", "0", "a whole number from 1"),
        ("SAGEMAKER_TFS_MAX_BATCH_SIZE", "-1", "a whole number"),
        ("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", "1.5", "a whole number"),
        ("SAGEMAKER_MAX_REQUEST_SIZE", "10MB", "a whole number"),
        ("SAGEMAKER_TFS_INTRA_OP_PARALLELISM", "two", "a whole number"),
    ],
)
def test_what_cannot_be_obeyed_is_named(name: str, value: str, expected: str) -> None:
    with pytest.raises(JobDescriptionError) as raised:
        read_settings({name: value})
    message = str(raised.value)
    assert message.startswith(f"{name} is {value!r}; expected {expected}")
    assert "\n" not in message


def test_what_has_no_effect_is_accepted_and_said_in_one_line() -> None:
    settings = read_settings(
        {
            "SAGEMAKER_INFERENCE_ACCELERATOR_PRESENT": "true",
            "SAGEMAKER_TFS_INSTANCE_COUNT": "4",
            "SAGEMAKER_TFS_FRACTIONAL_GPU_MEM_MARGIN": "0.1",
            "SAGEMAKER_TFS_NGINX_LOGLEVEL": "debug",
        }
    )
    (warning,) = settings.warnings
    assert "SAGEMAKER_INFERENCE_ACCELERATOR_PRESENT" in warning
    assert "SAGEMAKER_TFS_INSTANCE_COUNT" in warning


@pytest.mark.parametrize(
    "environ",
    [{"SM_LOG_LEVEL": "error"}, {"SAGEMAKER_CONTAINER_LOG_LEVEL": "40"}, {"SAGEMAKER_GUNICORN_LOGLEVEL": "error"}],
)
def test_the_log_level_has_several_names(environ: dict[str, str]) -> None:
    assert read_settings(environ).log_level == 40


def test_a_log_level_that_is_none_is_said() -> None:
    settings = read_settings({"SAGEMAKER_CONTAINER_LOG_LEVEL": "loud"})
    assert settings.log_level == 20
    assert "'loud'" in settings.warnings[0]


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({"SAGEMAKER_MODEL_SERVER_WORKERS": "3", "SAGEMAKER_GUNICORN_THREADS": "9"}, 3),
        ({"SAGEMAKER_GUNICORN_WORKERS": "2", "SAGEMAKER_GUNICORN_THREADS": "4"}, 8),
        ({"SAGEMAKER_GUNICORN_THREADS": "1"}, 1),
        ({"SAGEMAKER_GUNICORN_WORKERS": "100", "SAGEMAKER_GUNICORN_THREADS": "1000"}, 1000),
        ({"SAGEMAKER_GUNICORN_THREADS": " "}, max(16, cpu_count())),
    ],
)
def test_threads_of_handlers(environ: dict[str, str], count: int) -> None:
    assert read_settings(environ).handler_threads == count


@pytest.mark.parametrize("text", ["0", "-1", "many", "1001", "10000000", "\u0663"])
def test_threads_of_handlers_that_are_none(text: str) -> None:
    with pytest.raises(JobDescriptionError, match=r"SAGEMAKER_GUNICORN_THREADS is .*; expected a whole number from 1"):
        read_settings({"SAGEMAKER_GUNICORN_THREADS": text})
