"""The command line: python -m dimoo COMMAND …

Each command lives in a module that is imported when it is asked for. Such a module has
`arguments(parser, command)`, which adds to an argparse parser, and `main(arguments)`, which does the work and
returns the exit status. A DimooError becomes a sentence and status 2.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import dimoo
from dimoo.errors import DimooError

COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("dimoo.cli", "make pictures from a text"),
    "edit": ("dimoo.cli", "make a picture from a picture"),
    "inpaint": ("dimoo.cli", "draw part of a picture anew"),
    "extrapolate": ("dimoo.cli", "continue a picture beyond its sides"),
    "chat": ("dimoo.cli", "ask about pictures"),
    "train": ("dimoo.train.command", "train the image tokenizer or the transformer on Toytown"),
    "finetune": ("dimoo.train.finetune", "teach a checkpoint pictures of your own: a LoRA adapter"),
    "improve": ("dimoo.train.self_grpo", "let a checkpoint learn from its own best pictures: Self-GRPO"),
    "merge": ("dimoo.merge", "write a checkpoint with its adapter in it"),
    "evaluate": ("dimoo.evals.command", "score a checkpoint on held-out prompts or scenes"),
    "memory": ("dimoo.evals.memory", "tell what memory a checkpoint takes, before it is loaded"),
    "bench": ("dimoo.evals.bench", "measure the speed of a checkpoint on this machine"),
}
PROGRAM = "python -m dimoo"
PIPE_CLOSED = 141  # what a shell reports for a program whose reader has gone
INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def overview() -> argparse.ArgumentParser:
    lines = [f"  {name:<12}{what}" for name, (_, what) in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Lumina-DiMOO: pictures by unmasking tokens in parallel.",
        epilog="commands:\n" + "\n".join(lines) + "\n\n`" + PROGRAM + " COMMAND --help` explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dimoo {dimoo.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    return parser


def reader_of(command: str) -> tuple[ModuleType, argparse.ArgumentParser]:
    """The module behind a command, and the parser of its options."""
    name, what = COMMANDS[command]
    module = import_module(name)
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {command}", description=what[0].upper() + what[1:] + ".")
    module.arguments(parser, command)
    return module, parser


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where a console or pipe does not speak Unicode
    command = overview().parse_args(argv[:1] or ["--help"]).command
    try:
        module, parser = reader_of(command)
        code = module.main(parser.parse_intermixed_args(argv[1:])) or 0
        sys.stdout.flush()
        return code
    except DimooError as error:
        print(f"dimoo: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who reads has seen enough, as `| head`; what is still to be flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        print("\ndimoo: stopped.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
