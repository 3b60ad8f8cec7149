"""The command line: pictures, exit states, and nothing half-written."""

from __future__ import annotations

import io
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from PIL import Image

import dimoo.__main__ as program
from dimoo import checkpoint as loader
from dimoo.cli import Line, aspect, check_output, output_path, progress, size, tell
from dimoo.errors import DimooError
from dimoo.frames import Answer, Frame
from dimoo.metadata import read_settings

COMMAND = [sys.executable, "-m", "dimoo"]


@pytest.fixture
def run(checkpoint):
    def run(*options: str) -> int:
        return program.main(["generate", *options, "--checkpoint", str(checkpoint), "--device", "cpu"])

    return run


def test_a_picture_with_its_settings(run, tmp_path, capsys):
    path = tmp_path / "out.png"
    settings = ("--size", "128x64", "--steps", "3", "--guidance", "2", "--temperature", "0.5", "--seed", "9")
    assert run("a red ball", "-o", str(path), *settings) == 0
    written = read_settings(path)
    assert written["prompt"] == "a red ball"
    assert [written[k] for k in ("width", "height", "steps", "guidance", "temperature", "seed")] == [
        128,
        64,
        3,
        2,
        0.5,
        9,
    ]
    out, err = capsys.readouterr()
    assert out == "" and "seed 9" in err


def test_several_pictures_and_a_report(run, tmp_path):
    options = (
        "-n",
        "2",
        "--size",
        "64x64",
        "--steps",
        "1",
        "--seed",
        "5",
        "--json",
        str(tmp_path / "r.json"),
    )
    assert run("a red ball", "-o", str(tmp_path / "a.png"), *options) == 0
    report = json.loads((tmp_path / "r.json").read_text())["images"]
    assert [entry["file"] for entry in report] == [str(tmp_path / "a-1.png"), str(tmp_path / "a-2.png")]
    assert [read_settings(entry["file"])["seed"] for entry in report] == [5, 6]


def test_a_folder_gets_files_with_speaking_names(run, tmp_path):
    for steps in "12":
        assert run("a red ball", "-o", f"{tmp_path}/new/", "--size", "64x64", "--steps", steps, "--seed", "5") == 0
    kept = {path.name: read_settings(path)["steps"] for path in (tmp_path / "new").iterdir()}
    assert kept == {"a-red-ball_seed-5.png": 1, "a-red-ball_seed-5-2.png": 2}


@pytest.fixture
def files(tmp_path):
    """A picture and a mask as files, and the program run on them by their task's name."""
    Image.new("RGB", (128, 64), "red").save(tmp_path / "in.png")
    mask = Image.new("L", (128, 64), 0)
    mask.paste(255, (0, 0, 40, 64))
    mask.save(tmp_path / "mask.png")
    return tmp_path


@pytest.fixture
def do(checkpoint, files, monkeypatch):
    monkeypatch.chdir(files)

    def do(*words: str) -> int:
        return program.main([*words, "--checkpoint", str(checkpoint), "--device", "cpu"])

    return do


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["edit", "in.png", "a red ball"], {"kind": "instruct", "prompt": "a red ball"}),
        (["edit", "in.png", "--kind", "control", "--map", "depth", "a cone"], {"map": "depth", "prompt": "a cone"}),
        (["edit", "--kind", "predict", "--map", "hed", "in.png", "--guidance-image", "1"], {"map": "hed", "guidance_image": 1.0}),
        (["edit", "in.png", "--kind", "style", "--reference", "mask.png"], {"kind": "style"}),
        (["edit", "in.png", "--kind", "view", "--direction", "back", "--cache"], {"direction": "back", "cache": True}),
        (["inpaint", "in.png", "mask.png", "a red ball", "--grow", "9"], {"prompt": "a red ball", "grow": 9, "width": 128}),
        (["inpaint", "in.png", "mask.png", "--invert", "--feather", "0"], {"prompt": "", "invert": True, "feather": 0}),
        (["extrapolate", "in.png", "a ball", "--left", "64"], {"left": 64, "width": 192, "height": 64}),
        (["extrapolate", "in.png", "--aspect", "1:1", "--align", "end"], {"top": 64, "bottom": 0, "width": 128, "height": 128}),
    ],
)  # fmt: skip
def test_every_task_that_makes_a_picture(do, files, words, wanted):
    assert do(*words, "-o", "out.png", "--steps", "1", "--seed", "4", "--json", "out.json") == 0
    written = read_settings(files / "out.png")
    assert written["task"] == words[0] and written["seed"] == 4
    assert {name: written[name] for name in wanted} == wanted
    (entry,) = json.loads((files / "out.json").read_text())["images"]
    assert entry == written | {"file": "out.png"}
    with Image.open(files / "out.png") as image:
        assert image.size == (written["width"], written["height"])


def test_questions_and_answers(do, files, capsys):
    assert do("chat", "in.png", "-q", "is the ball a dragon?", "mask.png", "--short", "--no-cache", "--json", "a.json") == 0
    out, err = capsys.readouterr()
    (settings,) = json.loads((files / "a.json").read_text())["answers"]
    assert out == settings["answer"] + "\n"
    assert (settings["short"], settings["cache"], settings["prompt"]) == (True, False, "is the ball a dragon?")
    assert "Testville does not know: dragon." in err
    assert do("chat", "--question", "is it red?", "--length", "4", "--block", "4") == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["edit", "none.png", "a ball"], "dimoo: There is no file none.png."),
        (["edit", "half.png", "a ball"], "dimoo: half.png cannot be read as a picture"),
        (["edit", "in.png"], "dimoo: Instruction is empty"),
        (["edit", "in.png", "--kind", "style"], "dimoo: Style picture is missing"),
        (["inpaint", "in.png", "none.png"], "dimoo: There is no file none.png."),
        (["inpaint", "in.png", "square.png"], "dimoo: The mask (64 × 64) does not fit the picture (128 × 64)"),
        (["inpaint", "in.png", "black.png"], "dimoo: The mask is empty"),
        (["extrapolate", "in.png"], "dimoo: Nothing to add"),
        (["extrapolate", "in.png", "--left", "64", "--aspect", "2"], "dimoo: Give either --aspect or the sides"),
        (["extrapolate", "in.png", "--left", "1024", "--bottom", "1024", "--top", "1024"], "dimoo: 1152 × 2112 is too large"),
        (["chat", "none.png", "-q", "is it red?"], "dimoo: There is no file none.png."),
        (["chat", "in.png", "-q", ""], "dimoo: Question is empty"),
    ],
)
def test_mistakes_with_pictures_end_in_a_sentence(checkpoint, files, monkeypatch, capsys, words, sentence):
    load = loader.load

    def small(*places, **ways):
        pipeline = load(*places, **ways)
        return replace(pipeline, defaults=replace(pipeline.defaults, max_area=512 * 512))

    monkeypatch.setattr(loader, "load", small)
    monkeypatch.chdir(files)
    (files / "half.png").write_bytes((files / "in.png").read_bytes()[:90])
    Image.new("L", (64, 64), 255).save(files / "square.png")
    Image.new("L", (128, 64), 0).save(files / "black.png")
    before = sorted(files.iterdir())
    assert program.main([*words, "--checkpoint", str(checkpoint)]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(files.iterdir()) == before


def test_unknown_words_are_noted(run, tmp_path, capsys):
    assert run("a red dragon ball", "-o", str(tmp_path / "a.png"), "--size", "64x64", "--steps", "1") == 0
    assert "Testville does not know: dragon." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["", "-o", "a.png"], "dimoo: Prompt is empty"),
        (["dragon", "-o", "a.png"], "dimoo: Testville knows none of these words: dragon"),
        (["a ball", "-o", "a.png", "--size", "100x64"], "dimoo: Width must be a multiple of 16"),
        (["a ball", "-o", "a.png", "--steps", "1000"], "dimoo: Steps must lie between 1 and 128"),
        (["a ball", "-o", "a.jpg"], "dimoo: Pictures are written as PNG"),
        (
            ["a ball", "-o", "a.png", "--device", "toaster"],
            "dimoo: There is no kind of device called toaster",
        ),
    ],
)
def test_mistakes_end_in_a_sentence_and_status_2(
    checkpoint, tmp_path, monkeypatch, capsys, options, sentence
):
    monkeypatch.chdir(tmp_path)
    assert program.main(["generate", "--checkpoint", str(checkpoint), *options]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["-o", "--json"])
def test_what_cannot_be_written_is_told_of_before_it_is_drawn(tmp_path, monkeypatch, capsys, option):
    (tmp_path / "file").touch()
    monkeypatch.setattr("dimoo.checkpoint.load", lambda *_, **__: pytest.fail("nothing is to be loaded"))
    options = {"-o": str(tmp_path / "a.png")} | {option: str(tmp_path / "file" / "new" / "a.png")}
    assert program.main(["generate", "a ball", *itertools.chain(*options.items())]) == 2
    assert f"{tmp_path / 'file'} is a file" in capsys.readouterr().err and list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_missing_checkpoint_ends_in_a_sentence(tmp_path, capsys):
    assert program.main(["generate", "a ball", "--checkpoint", str(tmp_path / "none")]) == 2
    assert "There is no checkpoint folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["dance"], ["generate"], ["generate", "a", "--size", "big"], ["generate", "a", "-n", "x"], ["edit"],
        ["edit", "a.png", "a", "--kind", "paint"], ["inpaint", "a.png"], ["chat", "a.png"],
        ["extrapolate", "a.png", "--aspect", "wide"], ["extrapolate", "a.png", "--aspect", "16:0"],
    ],
)
def test_wrong_usage_is_explained(argv, capsys):
    with pytest.raises(SystemExit) as exit:
        program.main(argv)
    assert exit.value.code == 2
    assert "usage: python -m dimoo" in capsys.readouterr().err


def test_commands_of_the_readme_are_understood():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [shlex.split(line, comments=True)[3:] for line in text.splitlines() if line.startswith("python -m dimoo ")]
    assert {line[0] for line in lines} >= set(program.COMMANDS) - {"merge"}
    for command, *options in lines:
        _, parser = program.reader_of(command)
        given = vars(parser.parse_intermixed_args(options))
        assert all((ROOT / value).exists() for value in given.values() if str(value).startswith(("examples/", "assets/")))


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_the_overview_lists_every_command(argv, capsys):
    with pytest.raises(SystemExit) as exit:
        program.main(argv)
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in program.COMMANDS)


def test_commands_are_imported_when_asked_for(monkeypatch, capsys):
    class Module:
        @staticmethod
        def arguments(parser, command):
            parser.add_argument("--speed", type=int)

        @staticmethod
        def main(options):
            print("speed", options.speed)

    monkeypatch.setitem(program.COMMANDS, "fly", ("dimoo.flying", "fly away"))
    monkeypatch.setattr(program, "import_module", {"dimoo.flying": Module}.__getitem__)
    assert program.main(["fly", "--speed", "3"]) == 0
    assert capsys.readouterr().out == "speed 3\n"


def test_sizes_and_paths(tmp_path):
    assert size("256X384") == size("256×384") == (256, 384)
    assert aspect("16:9") == 16 / 9 and aspect("1.5") == 1.5
    single, second = (SimpleNamespace(index=i, count=n, settings={"prompt": "a ball"}) for i, n in ((0, 1), (1, 3)))
    assert output_path("a.png", single).name == "a.png"
    assert output_path("x/a.png", second).name == "a-2.png"
    folder = tmp_path / "looks-like-a-file.png"
    folder.mkdir()
    for name in (str(folder), f"{tmp_path}/new/"):
        check_output(name)
        assert output_path(name, single) == Path(name) / "a-ball_seed-0.png"
    with pytest.raises(DimooError, match="name the file a.png"):
        check_output("a.webp")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_answers_unfold_on_a_terminal_only(monkeypatch, capsys):
    steps = [[("", None)] * 3, [("a", 0.5), ("", None), (" ball", 0.9)], [("a", 0.5), (" red", 0.7), (" ball", 0.9)]]
    answers = [Answer(i, 2, 0.0, None, pieces, "a red ball", i == 2, settings={"answer": 1}) for i, pieces in enumerate(steps)]
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert tell(iter(answers)) == {"answer": 1}
    assert [part.removesuffix("\x1b[K") for part in terminal.getvalue().split("\r")] == [
        "", "▁▁▁", "a▁ ball", "a red ball", "",
    ]  # fmt: skip
    assert capsys.readouterr().out == "a red ball\n"
    monkeypatch.setattr("sys.stderr", file := io.StringIO())
    tell(iter(answers))
    assert file.getvalue() == ""


def test_a_long_line_shows_its_end(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    line = Line(Terminal())
    line.show("word " * 20 + "end")
    shown = line.stream.getvalue().strip("\r").removesuffix("\x1b[K")
    assert len(shown) == 29 and shown.startswith("…") and shown.endswith("word end")
    line.show("first\n\nsecond")  # of an answer of several lines; only the last could be drawn over
    assert line.stream.getvalue().endswith("\rfirst second\x1b[K")


def test_the_bar_is_drawn_over_on_a_terminal_only():
    frame = Frame(3, 12, 0.5, 1.5, 1, 2, 7, None, None, None, None)
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        line = Line(stream)
        line.show(progress(frame))
        line.finish("a.png")
    assert "\rpicture 2 of 2  ███████░" in terminal.getvalue()
    assert "step 3 of 12, 0.5 s, 1.5 s left" in terminal.getvalue()
    assert file.getvalue() == "a.png\n"


def test_ctrl_c_ends_cleanly_and_keeps_what_is_done(checkpoint, tmp_path):
    options = ["-n", "8", "--steps", "64", "-o", str(tmp_path / "a.png"), "--checkpoint", str(checkpoint)]
    process = subprocess.Popen(
        [*COMMAND, "generate", "a red ball", *options],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    first = tmp_path / "a-1.png"
    deadline = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == program.INTERRUPTED
    assert errors.endswith("dimoo: stopped.\n")
    assert "Traceback" not in errors
    assert read_settings(first)["seed"] >= 0
    assert not (tmp_path / "a-8.png").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_reader_that_has_seen_enough_is_no_failure():
    command = [sys.executable, "-m", "dimoo", "memory", "--checkpoint", "assets/toytown"]
    closed = subprocess.run(command, stdout=closed_pipe(), stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert closed.returncode == 141 and closed.stderr == ""


def closed_pipe() -> int:
    """Where to write to when nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_a_folder_is_no_file_for_settings(tmp_path, capsys):
    assert program.main(["generate", "a ball", "--json", str(tmp_path)]) == 2
    assert "is a folder: name a file in it" in capsys.readouterr().err
