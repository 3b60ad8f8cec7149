"""The command line: pictures, exit states, and nothing half-written."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

import dimoo.__main__ as program
from dimoo.cli import ProgressBar, output_path, size
from dimoo.errors import DimooError
from dimoo.frames import Frame
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
    assert run("a red ball", "-o", f"{tmp_path}/new/", "--size", "64x64", "--steps", "1", "--seed", "5") == 0
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a-red-ball_seed-5.png"]


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


def test_a_missing_checkpoint_ends_in_a_sentence(tmp_path, capsys):
    assert program.main(["generate", "a ball", "--checkpoint", str(tmp_path / "none")]) == 2
    assert "There is no checkpoint folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["dance"], ["generate"], ["generate", "a", "--size", "big"], ["generate", "a", "-n", "x"]]
)
def test_wrong_usage_is_explained(argv, capsys):
    with pytest.raises(SystemExit) as exit:
        program.main(argv)
    assert exit.value.code == 2
    assert "usage: dimoo" in capsys.readouterr().err


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
    assert output_path("a.png", 0, 1).name == "a.png"
    assert output_path("x/a.png", 1, 3).name == "a-2.png"
    assert output_path(str(tmp_path), 0, 1) == tmp_path
    with pytest.raises(DimooError, match="name the file a.png"):
        output_path("a.webp", 0, 1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_drawn_over_on_a_terminal_only():
    frame = Frame(3, 12, 0.5, 1.5, 1, 2, 7, None, None, None, None)
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        bar = ProgressBar(stream)
        bar.show(frame)
        bar.finish("a.png")
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
