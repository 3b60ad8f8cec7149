"""Settings in a PNG: there and back, and nothing half-written."""

from __future__ import annotations

import signal
import struct
import zlib

import pytest
from PIL import Image

from dimoo.errors import DimooError
from dimoo.metadata import KEY, describe, file_name, read_settings, save_json, save_png, unused
from dimoo.tasks import Edit, Extrapolate, Generate, Inpaint, request_from

PICTURE = Image.new("RGB", (32, 16), (200, 80, 40))
SETTINGS = Generate(
    'naïve "red" ball <b>☃</b> 球', width=256, height=192, steps=9, guidance=2.5, seed=2**32 - 1
).settings()


def test_every_setting_survives(tmp_path):
    path = save_png(PICTURE, SETTINGS | {"stopped": "3/9", "model": "Toytown"}, tmp_path / "new" / "a.png")
    settings = read_settings(path)
    assert settings == SETTINGS | {"stopped": "3/9", "model": "Toytown"}
    assert request_from(settings).settings() == SETTINGS
    with Image.open(path) as image:
        assert image.getpixel((3, 3)) == (200, 80, 40)
        assert "seed: 4294967295" in image.text["Description"]


def test_pictures_without_settings_are_refused(tmp_path):
    plain, jpeg, odd = tmp_path / "plain.png", tmp_path / "a.jpg", tmp_path / "odd.png"
    PICTURE.save(plain)
    PICTURE.save(jpeg)
    save_png(PICTURE, {}, odd)
    with pytest.raises(DimooError, match="plain.png carries no settings"):
        read_settings(plain)
    with pytest.raises(DimooError, match="a.jpg cannot be read as a PNG"):
        read_settings(jpeg)
    with pytest.raises(DimooError, match="There is no file b.png"):
        read_settings(tmp_path / "b.png")
    jpeg.rename(tmp_path / "c.png")
    with pytest.raises(DimooError, match="c.png cannot be read"):
        read_settings(tmp_path / "c.png")
    odd.write_bytes(odd.read_bytes()[:60])
    with pytest.raises(DimooError, match="odd.png cannot be read"):
        read_settings(odd)


@pytest.mark.parametrize(("side", "sentence"), [(9000, "too large"), (40000, "big.png cannot be read")])
def test_a_picture_that_would_fill_the_memory_is_not_unpacked(tmp_path, side, sentence):
    path = tmp_path / "big.png"
    PICTURE.save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(DimooError, match=sentence):
        read_settings(path)


@pytest.mark.parametrize("text", ["[1, 2]", "{", "[" * 100_000])
def test_settings_of_another_form_are_refused(tmp_path, text):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(KEY, text)
    PICTURE.save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(DimooError, match="a.png carries"):
        read_settings(tmp_path / "a.png")


def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = save_png(PICTURE, SETTINGS, tmp_path / "a.png")
    before = path.read_bytes()

    def fail(image, file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(DimooError, match="Cannot write .*a.png: No space left on device"):
        save_png(PICTURE, SETTINGS, path)
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_png(PICTURE, SETTINGS, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_at_the_end_leaves_no_file(tmp_path):
    resource = pytest.importorskip("resource", reason="limits on files are POSIX")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(DimooError, match="Cannot write .*a.json"):
            save_json([1], tmp_path / "a.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())


def test_names_that_are_taken_are_numbered(tmp_path):
    path = tmp_path / "a.png"
    assert unused(path) == path
    for name in ("a.png", "a-2.png"):
        (tmp_path / name).touch()
    assert unused(path) == tmp_path / "a-3.png"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DimooError, match="Cannot write"):
        save_json([1], tmp_path / "file" / "a.json")


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red ball, on the beach!", "a-red-ball-on-the-beach_seed-7.png"),
        ("../../etc/passwd", "etc-passwd_seed-7.png"),
        ("球", "generate_seed-7.png"),
        ("x" * 500, "x" * 60 + "_seed-7.png"),
    ],
)
def test_file_names_are_portable(prompt, name):
    assert file_name(Generate(prompt, seed=7).settings()) == name


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (Edit(PICTURE, prompt="make it blue", seed=7), "make-it-blue_seed-7.png"),
        (Edit(PICTURE, "predict", map="depth", seed=7), "edit-predict-depth_seed-7.png"),
        (Edit(PICTURE, "view", direction="back", seed=7), "edit-view-back_seed-7.png"),
        (Edit(PICTURE, "style", reference=PICTURE, seed=7), "edit-style_seed-7.png"),
        (Inpaint(PICTURE, PICTURE, seed=7), "inpaint_seed-7.png"),
        (Extrapolate(PICTURE, left=16, seed=7), "extrapolate_seed-7.png"),
    ],
)
def test_every_task_has_names_and_a_description(request_, name):
    settings = request_.settings()
    assert file_name(settings) == name
    assert describe(settings).startswith(request_.prompt or "(") and f"task: {request_.task}" in describe(settings)


def test_the_name_of_a_stopped_picture_says_so():
    assert (
        file_name(Generate("a ball", seed=7).settings() | {"stopped": "1/2"}) == "a-ball_seed-7_stopped.png"
    )
