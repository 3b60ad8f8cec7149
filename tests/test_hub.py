"""Hub ids: which files, which revision, and a sentence for every way in which a download fails."""

from __future__ import annotations

import errno
import fnmatch
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from hub_server import COMMIT, HubServer
from huggingface_hub import errors

from dimoo import hub
from dimoo.checkpoint import BUILT_IN, PUBLISHED, ROOT, default_checkpoint, find, load
from dimoo.errors import DimooError


def response(status):
    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co/api/models/a/b"))


def failing(error):
    def snapshot_download(*_, **__):
        raise error

    return snapshot_download


def test_names():
    assert hub.split_name("a-b/c.d") == ("a-b/c.d", None)
    assert hub.split_name(f"{PUBLISHED}@{COMMIT}") == (PUBLISHED, COMMIT)
    assert hub.split_name("a/b@refs/pr/1") == ("a/b", "refs/pr/1")
    for name in ("a", "a/b/c", "/a/b", "a/b@", "../b", "a/b@-x", "ä/b", "a/b@x y"):
        assert hub.split_name(name) is None


def test_only_what_is_needed_is_fetched_at_the_revision(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **o: asked.append((name, o)) or str(tmp_path))
    assert find("somebody/something@v1") == tmp_path
    (name, options), = asked
    assert (name, options["revision"]) == ("somebody/something", "v1")
    patterns = options["allow_patterns"]
    fetched = lambda file: any(fnmatch.fnmatch(file, pattern) for pattern in patterns)  # noqa: E731
    assert all(map(fetched, (
        "config.json", "tokenizer.json", "model-00001-of-00004.safetensors", "model.safetensors.index.json",
        "vqvae/config.json", "vqvae/diffusion_pytorch_model.safetensors", "vqvae/preview.safetensors",
    )))  # fmt: skip
    assert not any(map(fetched, ("README.md", "modeling_llada.py", "pytorch_model.bin", "assets/a.png", "vqvae/model.bin")))


FAILURES = {
    "gated": (errors.GatedRepoError("403", response=response(403)), "is gated: ask for access .* `hf auth login` or set HF_"),
    "private or no such": (
        errors.RepositoryNotFoundError("404", response=response(404)),
        "no such model on the Hugging Face hub: check the name; if it is private, log in with `hf auth login`",
    ),
    "no such revision": (
        errors.RevisionNotFoundError("404", response=response(404)), "a/b has no revision v9: check what stands after the @",
    ),
    "offline": (errors.LocalEntryNotFoundError("no"), "a/b at revision v9 is not here in full, and the Hugging Face hub cannot"),
    "broken off": (
        errors.IncompleteSnapshotError("x", snapshot_path="x"), "not here in full.* Files that are complete are kept",
    ),
    "rejected": (errors.HfHubHTTPError("401", response=response(401)), "does not let you read a/b .* log in again"),
    "server trouble": (errors.HfHubHTTPError("502 Bad Gateway", response=response(502)), r"be downloaded \(502 Bad Gateway"),
    "name": (errors.HFValidationError("no"), "a model on the hub cannot be called so"),
    "disk full": (OSError(errno.ENOSPC, "No space left"), "The disk is full: a/b .* HF_HOME"),
    "connection": (httpx2.ReadError("connection reset"), r"cannot be downloaded \(connection reset\). Start again"),
    "chunk store": (errors.XetDownloadError("chunk 3"), r"cannot be downloaded \(chunk 3\)"),
    "chunk library": (RuntimeError("Data processing error: reset\nmore"), r"\(Data processing error: reset\). Start again"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_sentences(name, monkeypatch):
    error, sentence = FAILURES[name]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(error))
    with pytest.raises(DimooError, match=sentence):
        find("a/b@v9")


# A whole download, by huggingface_hub itself


CHUNK = 10 * 2**20  # huggingface_hub writes so many bytes at once


@pytest.fixture
def model(tmp_path):
    """Files of a repository, one of them large enough to break off in."""
    folder = tmp_path / "model"
    (folder / "vqvae").mkdir(parents=True)
    for name in ("config.json", "vqvae/config.json", "README.md"):
        (folder / name).write_text(name)
    (folder / "model.safetensors").write_bytes(os.urandom(3 * CHUNK // 2))
    return folder


@pytest.fixture
def server(model):
    server = HubServer(model, "somebody/something")
    yield server
    server.stop()


@pytest.fixture
def fetch(server, tmp_path):
    """Downloads a name in a process of its own, whose hub is the server; what it prints, and what it shows meanwhile."""
    code = "import sys; from dimoo import hub; print(hub.download(*hub.split_name(sys.argv[1])))"
    away = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}

    def fetch(name):
        done = subprocess.run([sys.executable, "-c", code, name], env=os.environ | away, capture_output=True, text=True)
        return done.stdout.strip(), done.stderr

    return fetch


def test_a_download_resumes_after_a_break_and_is_there_without_the_hub(server, fetch, model):
    server.breaks_at = CHUNK + 5000
    place, shown = fetch("somebody/something")
    assert "100%" in shown
    assert ("model.safetensors", f"bytes={CHUNK}-") in server.gets
    folder = Path(place)
    for name in ("config.json", "vqvae/config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (model / name).read_bytes()
    assert not (folder / "README.md").exists()

    sent = len(server.gets)
    assert fetch(f"somebody/something@{COMMIT}")[0] == place and len(server.gets) == sent
    server.stop()
    assert fetch("somebody/something")[0] == place
    assert "DimooError: somebody/else is not here in full" in fetch("somebody/else")[1]
    (folder / "vqvae" / "config.json").unlink()
    assert "DimooError: somebody/something is not here in full" in fetch("somebody/something")[1]


def test_a_download_that_was_given_up_keeps_what_is_complete(server, fetch):
    server.breaks_at, server.recovers = CHUNK + 5000, False
    *_, sentence = fetch("somebody/something")[1].splitlines()
    assert sentence.startswith("dimoo.errors.DimooError: somebody/something ") and "complete are kept" in sentence
    done = {name for name, _ in server.gets} - {"model.safetensors"}
    server.breaks_at = None
    server.gets.clear()
    assert Path(fetch("somebody/something")[0]).is_dir()
    assert not done & {name for name, _ in server.gets}


def test_the_variable_names_the_default(checkpoint, monkeypatch):
    monkeypatch.delenv("DIMOO_CHECKPOINT", raising=False)
    assert default_checkpoint() == BUILT_IN
    monkeypatch.setenv("DIMOO_CHECKPOINT", "")
    assert default_checkpoint() == BUILT_IN
    monkeypatch.setenv("DIMOO_CHECKPOINT", "somebody/something@v2")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(checkpoint))
    assert load(device="cpu").defaults.name == "Testville"
