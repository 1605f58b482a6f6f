"""Downloads: archives are checked, kept if they are right, and continued if they were interrupted."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rehearsal import server as server_of_files

from knnlm.artifacts.files import UserError
from knnlm.corpora import fetch

CONTENT = b"an archive"
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of CONTENT on a server that refuses urllib's default agent, as wikitext.smerity.com does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            self.send_response((206 if start else 200) if self.headers["User-Agent"].startswith("Mozilla") else 403)
            self.end_headers()
            self.wfile.write(CONTENT[start:])

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/file.zip"
        running.shutdown()


def get(tmp_path: Path, **entry: object) -> Path:
    (tmp_path / "archives.yaml").write_text(yaml.safe_dump({"name": entry}))
    fetch.main(fetch.FetchConfig("name", tmp_path / "out" / "name.zip", tmp_path / "archives.yaml"))
    return tmp_path / "out" / "name.zip"


def test_a_url_is_fetched_and_checked(tmp_path: Path, server: str) -> None:
    assert get(tmp_path, kind="url", url=server, sha256=HASH).read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing(tmp_path: Path, server: str) -> None:
    with pytest.raises(UserError, match=f"found sha256 {HASH}, expected 00"):
        get(tmp_path, kind="url", url=server, sha256="00" * 32)
    assert not list((tmp_path / "out").iterdir())


def test_a_file_with_the_right_hash_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/name.zip").write_bytes(CONTENT)
    assert get(tmp_path, kind="url", url="http://127.0.0.1:9/gone", sha256=HASH).read_bytes() == CONTENT


def test_an_interrupted_download_is_continued(tmp_path: Path, server: str) -> None:
    (tmp_path / "out/.name.zip.resume").mkdir(parents=True)
    (tmp_path / "out/.name.zip.resume/partial").write_bytes(b"AN")  # capitals: these two bytes are not fetched again
    path = get(tmp_path, kind="url", url=server, sha256=hashlib.sha256(b"AN archive").hexdigest())
    assert path.read_bytes() == b"AN archive" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("unsure", "kept"), [(4, b"AN "), (7, b""), (64, b"")])
def test_without_a_digest_the_end_of_an_interrupted_download_is_fetched_again(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch, unsure: int, kept: bytes
) -> None:
    monkeypatch.setattr(fetch, "UNSURE", unsure)
    (tmp_path / "out/.name.zip.resume").mkdir(parents=True)
    (tmp_path / "out/.name.zip.resume/partial").write_bytes(b"AN a\0\0\0")  # as a loss of power may leave it
    assert get(tmp_path, kind="url", url=server, sha256=None).read_bytes() == kept + CONTENT[len(kept) :]


def test_a_long_download_is_flushed_now_and_then(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    flush = fetch.disk.flush
    monkeypatch.setattr(fetch.disk, "flush", lambda path: (sizes.append(path.stat().st_size), flush(path)))
    monkeypatch.setattr(fetch, "BLOCK", 2)
    monkeypatch.setattr(fetch, "UNSURE", 5)
    get(tmp_path, kind="url", url=server, sha256=None)
    assert sizes[:-1] == [4, 8]  # the last is the whole file's, before it gets its name
    assert sizes[-1] == len(CONTENT)


def test_a_wheel_comes_from_pip_for_the_pinned_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        (folder / "x.whl").write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", pip)
    path = get(tmp_path, kind="wheel", requirement="x==1", sha256=HASH, platforms=["manylinux_2_28_x86_64"])
    assert path.read_bytes() == CONTENT and [p.name for p in path.parent.iterdir()] == ["name.zip"]
    assert commands[0][-2:] == ["--platform", "manylinux_2_28_x86_64"] and "--no-deps" in commands[0]


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "url", "url": "http://127.0.0.1:9/gone"},
        {"kind": "wheel", "requirement": "no-such-package==0"},
    ],
)
def test_a_failed_download_is_one_line(entry: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match="are you offline") as raised:
        get(tmp_path, sha256=HASH, **entry)
    assert "\n" not in str(raised.value)


def test_an_unknown_archive_lists_those_of_the_catalogue(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no archive 'nonsense'; there are gensim, exllamav2"):
        fetch.read_catalogue(Path(__file__).parents[2] / "config/archives.yaml", "nonsense")


def test_of_a_models_repository_only_what_is_read_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Models(server_of_files.Handler):
        def do_GET(self) -> None:
            return self.send_error(404) if "datasets/" in self.path else super().do_GET()

        do_HEAD = do_GET

    read = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    for name in (*read, "pytorch_model.bin", "original/model.safetensors"):
        path = tmp_path / "served/hub" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT)
    entry = {"kind": "huggingface", "read_as": "language_model", "description": "", "licence": "MIT"}
    entry |= {"repository": "owner/model", "revision": "0123456789" * 4}
    (tmp_path / "archives.yaml").write_text(yaml.safe_dump({"name": entry}))
    monkeypatch.setattr(server_of_files, "Handler", Models)
    command = [sys.executable, "-m", "knnlm", "fetch", "--archive", "name", "--out", str(tmp_path / "out")]
    with server_of_files.serve(tmp_path / "served", "0123456789" * 4) as address:  # read when the library is imported
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        subprocess.run([*command, "--catalogue", str(tmp_path / "archives.yaml")], env=environment, check=True)
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")) == read
