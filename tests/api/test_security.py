"""Tokens, scopes and headers, on every route that there is."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.api.conftest import whole_service
from worker.api.guard import OPEN_PATHS
from worker.api.security import SCOPES, Scope, add_token, read_tokens
from worker.cli.main import run
from worker.core.errors import ConfigError
from worker.models.bundle import Bundle
from worker.settings import load_settings

OPEN = {*OPEN_PATHS, "/openapi.json"}


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens") / "tokens.toml"


@pytest.fixture(scope="module")
def tokens(tokens_file: Path) -> Mapping[Scope, str]:
    return {scope: add_token(tokens_file, f"only-{scope}", [scope]) for scope in SCOPES}


@pytest.fixture(scope="module")
def client(
    bundle: Bundle, tokens_file: Path, tokens: Mapping[Scope, str]
) -> Iterator[httpx.Client]:
    assert tokens  # the file is read when the service starts
    with (
        whole_service(bundle, tokens_file=tokens_file) as url,
        httpx.Client(base_url=url) as client,
    ):
        yield client


def operations(client: httpx.Client) -> list[tuple[str, str]]:
    """Method and path of everything that the service says it has, but what is open to all."""
    paths = client.get("/openapi.json").json()["paths"]
    found = [(method, path) for path, own in paths.items() for method in own if path not in OPEN]
    assert found
    return found


def ask(client: httpx.Client, method: str, path: str, token: str | None) -> httpx.Response:
    headers = {} if token is None else {b"Authorization": f"Bearer {token}".encode()}
    place = path.replace("{", "").replace("}", "")
    content = b"" if method == "post" else None
    with client.stream(method, place, headers=headers, content=content) as answer:
        if not answer.headers["content-type"].startswith("text/event-stream"):
            answer.read()  # and what never ends is not waited for
        return answer


@pytest.mark.parametrize("token", [None, "wrong", "ü", "a" * 4_000])
def test_without_a_valid_token_nothing_is_answered(client: httpx.Client, token: str | None) -> None:
    for method, path in operations(client):
        answer = ask(client, method, path, token)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["detail"].startswith("the token is")


def test_a_token_does_what_its_scope_allows_and_no_more(
    client: httpx.Client, tokens: Mapping[Scope, str]
) -> None:
    for method, path in operations(client):
        statuses = {scope: ask(client, method, path, tokens[scope]) for scope in SCOPES}
        refused = {scope for scope, answer in statuses.items() if answer.status_code == 403}
        assert len(refused) == len(SCOPES) - 1, (method, path, refused)
        for scope in refused:
            assert f"'only-{scope}' lacks the scope" in statuses[scope].json()["detail"]
        assert not {answer.status_code for answer in statuses.values()} & {401, 500}


def test_whoever_watches_the_service_needs_no_token(client: httpx.Client) -> None:
    assert client.get("/health").json()["status"] == "degraded"
    ready = client.get("/ready")
    assert ready.status_code == 503
    assert [reason for reason in ready.json()["reasons"] if reason.startswith("kafka: ")]


def test_every_answer_has_secure_headers(client: httpx.Client) -> None:
    for answer in (client.get("/health"), client.get("/nowhere"), client.post("/predict")):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


def test_no_other_site_may_ask(client: httpx.Client) -> None:
    answer = client.options(
        "/predict",
        headers={"Origin": "https://other.example", "Access-Control-Request-Method": "POST"},
    )
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_problems_say_what_is_wrong(client: httpx.Client) -> None:
    missing, wrong = client.get("/nowhere"), client.put("/health")
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert missing.json()["detail"] == "nothing is at /nowhere; /openapi.json lists what is"
    assert "PUT is not for /health" in wrong.json()["detail"]
    assert {missing.headers["content-type"], wrong.headers["content-type"]} == {
        "application/problem+json"
    }


def test_a_file_holds_no_token_and_only_its_owner_may_read_it(
    tokens_file: Path, tokens: Mapping[Scope, str]
) -> None:
    text = tokens_file.read_text()
    assert not [token for token in tokens.values() if token in text]
    entries = {entry["name"]: entry for entry in tomllib.loads(text)["token"]}
    assert entries["only-read"] == {
        "name": "only-read",
        "sha256": hashlib.sha256(tokens["read"].encode()).hexdigest(),
        "scopes": ["read"],
    }
    assert tokens_file.stat().st_mode & 0o077 == 0


def test_the_command_prints_a_token_once_and_keeps_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokens.toml"
    new = ["token", "new", "--file", str(path)]
    assert run([*new, "--name", "grafana", "--scope", "read"]) == 0
    first = capsys.readouterr().out.strip()
    assert run([*new, "--name", "mes", "--scope", "predict", "--scope", "read"]) == 0
    grafana, mes = read_tokens(path)
    assert (grafana.name, mes.scopes) == ("grafana", ("read", "predict"))
    assert hashlib.sha256(first.encode()).hexdigest() == grafana.sha256
    assert run([*new, "--name", "mes", "--scope", "read"]) == 78
    assert "has a token 'mes' already" in capsys.readouterr().err
    assert run([*new, "--name", "other", "--scope", "write"]) == 78
    assert "'write' is no scope; write read, predict, admin" in capsys.readouterr().err
    assert run([*new, "--name", "a b", "--scope", "read"]) == 78
    assert "'a b' is not allowed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[token]]\nname = 'a'\n", "token.0.sha256: Field required"),
        ("[[token]", "is not TOML"),
        ("[[token]]\nname='a'\nsha256='x'\nscopes=['read']\n", "token.0.sha256"),
        ("tokens = 3\n", "tokens: Extra inputs are not permitted"),
    ],
)
def test_a_file_that_says_something_else_is_one_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"serve\.tokens_file: .*") as caught:
        read_tokens(path)
    assert sentence in str(caught.value)


def test_two_tokens_of_one_name_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_tokens(path)
    entry = f"[[token]]\nname = 'a'\nsha256 = '{'0' * 64}'\nscopes = ['read']\n"
    path.write_text(entry * 2)
    with pytest.raises(ConfigError, match="two tokens 'a'"):
        read_tokens(path)


def test_other_machines_may_only_ask_where_tokens_are_set() -> None:
    with pytest.raises(ConfigError, match=r"serve\.tokens_file: .*driftdetector token new"):
        load_settings(None, {"DRIFTDETECTOR_SERVE__HOST": "0.0.0.0"})
