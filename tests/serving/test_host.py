"""By which names a server without keys may be asked: a page must not let its own name point at it."""

import httpx
import pytest
from typer.testing import CliRunner

from polytask.cli.main import app as cli
from polytask.errors import ConfigError
from polytask.serving import server
from polytask.serving.settings import Keys
from tests.serving.conftest import running

OWN = [
    "localhost", "LocalHost:8000", "localhost.", "app.localhost:1", "127.0.0.1:8000", "10.1.2.3", "[::1]:8000",
    "[fe80::1]", "box.lan", "BOX.lan:8000",
]  # fmt: skip
FOREIGN = [
    "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost",
    "box.lan.evil.example", "[evil.example]", "localhost:x", ":8000", "a@localhost",
]  # fmt: skip


@pytest.fixture(scope="module")
def address():
    with running(hosts=("box.lan",)) as (place, _):
        yield place


@pytest.mark.parametrize("host", OWN)
def test_own_names_and_addresses_are_answered(address, host):
    assert httpx.get(address + "/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_names_that_others_may_point_here_are_refused(address, host):
    """Their pages come with an Origin of that very name, so that it would seem the server's own page."""
    headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
    asked = [
        httpx.get(address + "/v1/models", headers=headers),
        httpx.post(address + "/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers=headers),
        httpx.get(address + "/", headers=headers),
        httpx.get(address + "/metrics", headers=headers),
    ]
    for answer in asked:
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "unknown_host"
        assert "--allow-host" in answer.json()["error"]["message"]


def test_keys_make_names_free():
    with running(keys=Keys(["k"])) as (place, _):
        headers = {"host": "evil.example", "authorization": "Bearer k"}
        assert httpx.get(place + "/v1/models", headers=headers).status_code == 200
        assert httpx.get(place + "/v1/models", headers={"host": "evil.example"}).status_code == 401


def test_the_command_line_says_the_names(monkeypatch):
    told = []
    monkeypatch.setattr(server, "serve", lambda paths, **words: told.append(words["settings"].hosts))
    words = ["serve", "anywhere", "--host", "box.lan", "--allow-host", "a.example", "--allow-host", "b.example"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert told == [("box.lan", "a.example", "b.example")]


@pytest.mark.parametrize("name", ["Box.lan:8311", "*", "http://box.lan", "", "a b"])
def test_names_that_are_none_are_refused_at_once(name):
    result = CliRunner().invoke(cli, ["serve", "anywhere", "--allow-host", name])
    assert isinstance(result.exception, ConfigError) or result.exit_code == 2
    assert "is no name of a host" in (str(result.exception) + result.output)


@pytest.mark.parametrize("host", ["evil.com/.localhost", "evil.com:.localhost", "a@b.localhost"])
def test_localhost_has_no_other_signs(address, host):
    assert httpx.get(address + "/v1/models", headers={"host": host}).status_code == 403
