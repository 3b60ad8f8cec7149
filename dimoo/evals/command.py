"""python -m dimoo evaluate: scores by the judge, which looks at pictures only."""
from __future__ import annotations

import argparse
import sys


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("--task", choices=("generate", "tokenizer"), default="generate", help="what to score (default: generate)")
    parser.add_argument("-n", "--count", type=int, default=200, metavar="N", help="held-out prompts or scenes (default: 200)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps (default: the checkpoint's)")
    parser.add_argument("--guidance", type=float, metavar="N", help="guidance scale (default: the checkpoint's)")
    parser.add_argument("--temperature", type=float, metavar="N", help="temperature (default: the checkpoint's)")
    parser.add_argument("--checkpoint", metavar="NAME", help="folder or hub id (default: the built-in one)")
    parser.add_argument("--device", help="cpu or cuda (default: what there is)")
    parser.add_argument("--json", metavar="FILE", help="also write the scores as JSON: task, category, score")


def main(options: argparse.Namespace) -> int:
    from dimoo.checkpoint import BUILT_IN, load

    pipeline = load(options.checkpoint or BUILT_IN, options.device)
    if options.task == "generate":
        from dimoo.evals.generate import evaluate

        settings = {name: getattr(options, name) for name in ("steps", "guidance", "temperature")}
        scores = evaluate(pipeline, options.count, **settings)
    else:
        from dimoo.evals.tokenizer import evaluate

        scores = evaluate(pipeline.vq, options.count)
    show(scores)
    if options.json:
        from dimoo.metadata import save_json

        save_json({options.task: scores}, options.json)
    return 0


def show(scores: dict, indent: str = "") -> None:
    for name, value in scores.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, indent + "  ")
        else:
            print(f"{indent}{name:<24}{value:.3f}" if isinstance(value, float) else f"{indent}{name:<24}{value}")
    sys.stdout.flush()
