"""Models by their names on a hub that runs here: the few routes that huggingface_hub asks for."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from polytask.errors import CheckpointError
from polytask.interop import hub
from polytask.interop.folder import locate

SHA = "a" * 40
NOWHERE = "http://127.0.0.1:9"


def at(endpoint: str, monkeypatch) -> None:
    """As HF_ENDPOINT does, which is read when huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub of `models`: name -> {file: bytes}; `asked` are the files that were downloaded."""
    models: dict[str, dict[str, bytes]] = {}
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool):
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[0] == "api":
                return self.api("/".join(parts[2:4]), parts[4:])
            files, file = models.get("/".join(parts[:2]), {}), "/".join(parts[4:])
            if file not in files:
                return self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            if body:
                asked.append(file)
            etag = hashlib.sha256(files[file]).hexdigest()
            return self.reply(200, files[file], {"ETag": f'"{etag}"', "X-Repo-Commit": SHA}, body)

        def api(self, name: str, rest: list[str]):
            if name == "org/locked":
                return self.reply(403, b"", {"X-Error-Code": "GatedRepo"})
            if name not in models:
                return self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})
            rows = [
                {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for file, data in models[name].items()
            ]
            if rest[:1] == ["tree"]:
                return self.reply(200, json.dumps(rows).encode(), {})
            about = {"id": name, "sha": SHA, "siblings": [{"rfilename": row["path"]} for row in rows]}
            return self.reply(200, json.dumps(about).encode(), {})

        def reply(self, status: int, data: bytes, headers: dict[str, str], body: bool = True):
            self.send_response(status)
            for name, value in {
                **headers,
                "Content-Length": str(len(data)),
                "Content-Type": "application/json",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    at(f"http://127.0.0.1:{httpd.server_port}", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    httpd.models, httpd.asked = models, asked
    yield httpd
    httpd.shutdown()
    httpd.server_close()


FILES = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"[]", "README.md": b"# A model"}


def test_a_model_is_downloaded_once_and_then_comes_from_the_cache(server, monkeypatch):
    others = {"pytorch_model.bin": b"!", "modeling.py": b"!", "original/consolidated.safetensors": b"!"}
    server.models["org/name"] = FILES | others
    folder = locate("org/name")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES
    assert sorted(server.asked) == sorted(FILES)
    assert locate("org/name") == folder
    assert len(server.asked) == len(FILES)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("org/name") == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    at(NOWHERE, monkeypatch)
    assert locate("org/name") == folder


def test_a_folder_of_that_name_comes_first(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "config.json").write_text("{}")
    (tmp_path / "org" / "name" / "model.safetensors").write_bytes(b"")
    assert locate("org/name").resolve() == tmp_path / "org" / "name"
    assert not server.asked


def test_a_model_that_is_not_there_or_locked(server):
    with pytest.raises(CheckpointError, match=r"no checkpoint at org/nmae, and the hub has no model org/nmae"):
        hub.fetch("org/nmae")
    with pytest.raises(CheckpointError, match="agreed to its terms"):
        hub.fetch("org/locked")


@pytest.mark.parametrize(("offline", "why"), [(True, "HF_HUB_OFFLINE is set"), (False, "cannot be reached")])
def test_without_a_network_what_is_not_cached_is_one_sentence(server, monkeypatch, offline, why):
    at(NOWHERE, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(CheckpointError, match=why) as caught:
        hub.fetch("org/name")
    assert "\n" not in str(caught.value)


def test_a_model_in_pickles_alone_is_refused_and_says_how_to_convert_it(server):
    server.models["org/old"] = {"config.json": b"{}", "pytorch_model.bin": b"!"}
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin alone, a pickle.*save_pretrained"):
        hub.fetch("org/old")
    assert server.asked == ["config.json"]


@pytest.mark.parametrize(
    ("text", "named"),
    [("org/name", True), ("a/b/c", False), ("/a/b", False), ("./a", False), ("name", False), ("~/m", False)],
)
def test_what_is_a_name(text, named):
    assert hub.is_name(text) is named
