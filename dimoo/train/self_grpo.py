"""python -m dimoo improve: Self-GRPO (report, section 4.4).

The model draws, answers questions about what it drew, and learns from the pictures about which it answers best.

The authors' code is not published. Where the report leaves numbers open they are options here; that an adapter is trained
instead of all weights is our choice: without it the model is its own reference, and needs no second copy.
"""
from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dimoo import layout
from dimoo.best_of import agreement
from dimoo.cli import size as size_of
from dimoo.errors import DimooError
from dimoo.evals.generate import credit
from dimoo.layout import Branch
from dimoo.memory import out_of_memory
from dimoo.noise import noise_of
from dimoo.packed import Packed
from dimoo.pipeline import Pipeline
from dimoo.plans import Planner
from dimoo.sampler import fill_in, unmask_images
from dimoo.tasks import SEEDS, Generate
from dimoo.train import adapting
from dimoo.train.adapting import Adapting
from dimoo.train.quiz import Quiz, read_quizzes, toytown_quizzes
from dimoo.train.run import Run
from dimoo.world.judge import Reading, read


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("prompts", metavar="FILE", nargs="?",
                        help="a prompt to a line, as JSON with questions on it (default: prompts of Toytown)")
    adapting.arguments(parser, "runs/improved", rate=1e-4)
    parser.add_argument("--reward", choices=REWARDS, default="answers",
                        help="what makes a picture good: right answers of the model, or, for Toytown, what its judge finds there")
    parser.add_argument("--group", type=int, default=8, metavar="N", help="pictures of a prompt that are compared (default: 8)")
    parser.add_argument("--prompts-per-step", type=int, default=4, metavar="N", help="prompts of an update (default: 4)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of a picture (default: half of the checkpoint's)")
    parser.add_argument("--chosen", type=int, default=4, metavar="N", help="steps of a picture to learn from (default: 4)")
    parser.add_argument("--size", type=size_of, metavar="WxH", help="of the pictures (default: the checkpoint's)")
    parser.add_argument("--weights", choices=WEIGHTS, default="softmax",
                        help="of a group's pictures: the report's, or GRPO's advantages, which also unlearn the worse ones")
    parser.add_argument("--alpha", type=float, default=2.0, metavar="N",
                        help="how much more a picture weighs for a better reward, of softmax (default: 2)")
    parser.add_argument("--kl-weight", type=float, default=0.1, metavar="N",
                        help="of the divergence from the model as it was (default: 0.1)")


def main(options: argparse.Namespace) -> int:
    adapting.check(options)
    for name in ("group", "prompts_per_step", "chosen", "steps"):
        if getattr(options, name) is not None and getattr(options, name) < (2 if name == "group" else 1):
            raise DimooError("Give --group 2 or more, and --prompts-per-step, --chosen and --steps 1 or more.")
    if options.reward == "judge" and options.prompts:
        raise DimooError("The judge knows Toytown's own prompts only: leave the file out, or take --reward answers.")
    if not (0 <= options.alpha < math.inf and 0 <= options.kl_weight < math.inf):
        raise DimooError("Give --alpha and --kl-weight 0 or more.")
    quizzes = read_quizzes(options.prompts) if options.prompts else None
    pipeline, base = adapting.loaded(options)
    width, height = options.size or (pipeline.defaults.width, pipeline.defaults.height)
    how = Method(
        width, height, options.steps or max(1, pipeline.defaults.steps // 2), options.group, options.prompts_per_step,
        options.chosen, options.reward, options.weights, options.alpha, options.kl_weight,
    )  # fmt: skip
    check(pipeline, quizzes, how)
    with out_of_memory():
        improve(pipeline, base, quizzes, options.output, options.minutes, how, options.rate, options.rank, options.seed)
    print(Path(options.output) / "adapter")
    return 0


@dataclass(frozen=True)
class Method:
    """width, height (pixels), steps: of a picture, `chosen` of which are learned from; group: pictures of a prompt; prompts: of
    an update. reward, weights: one of REWARDS and of WEIGHTS; alpha, kl_weight: the report's alpha and beta.
    """

    width: int
    height: int
    steps: int = 20
    group: int = 8
    prompts: int = 4
    chosen: int = 4
    reward: str = "answers"
    weights: str = "softmax"
    alpha: float = 2.0
    kl_weight: float = 0.1

    def request(self, prompt: str) -> Generate:
        """Raises DimooError for what nobody could draw."""
        return Generate(prompt, self.width, self.height, steps=self.steps, tries=1, seed=0)


def check(pipeline: Pipeline, quizzes: list[Quiz] | None, how: Method) -> None:
    """Tells what will not be as asked for; raises DimooError for prompts that cannot be drawn or answers that cannot be given."""
    if how.reward == "answers" and "chat" not in pipeline.defaults.tasks:
        raise DimooError(f"{pipeline.defaults.name} has not learned to answer questions, so its answers are no reward.")
    if pipeline.defaults.assess != "question" and not all(quiz.questions for quiz in quizzes or ()):
        raise DimooError(f"{pipeline.defaults.name} cannot say whether a picture shows its prompt: give each prompt questions.")
    for quiz in quizzes or islice(toytown_quizzes(np.random.default_rng(0)), 1):
        for note in pipeline.check(how.request(quiz.prompt))[1]:
            print(f"dimoo: {note}", file=sys.stderr)
        for question, answer in quiz.questions:
            unknown = pipeline.vocab.unknown_words(f"{question} {answer}")
            if unknown:
                raise DimooError(f"{pipeline.defaults.name} cannot be asked that: it does not know {', '.join(unknown)}.")
            if len(pipeline.vocab.encode(answer)) >= pipeline.defaults.short_length:
                raise DimooError(f"An answer must be short, in a few words: {answer}")


@dataclass(frozen=True)
class Group:
    """Pictures of a prompt. branch: the sequence that asks for it; tokens: (steps + 1, pictures, cells) long, codes after each
    step, -1 where masked; grid: rows and columns.
    """

    branch: Branch
    tokens: Tensor
    grid: tuple[int, int]

    @property
    def pictures(self) -> list[Tensor]:
        return [codes.view(self.grid) for codes in self.tokens[-1]]


def improve(pipeline: Pipeline, base: str, quizzes: list[Quiz] | None, folder: str | Path, minutes: float, how: Method,
            rate: float = 1e-4, rank: int = 16, seed: int = 0) -> None:
    """Train an adapter for `minutes` in `folder` (resumable); leaves it in `folder/adapter`.

    base: the name that the pipeline was loaded by. quizzes: None for those of Toytown. Raises DimooError when the folder holds a
    run on something else.
    """
    run = Run(folder, minutes)
    prompts = "Toytown" if quizzes is None else hashlib.sha1(repr(quizzes).encode()).hexdigest()[:12]
    run.is_for(f"adapter of rank {rank} by Self-GRPO for {base} on {prompts}, {how}, seed {seed}",
               "checkpoint, rank, seed, method, or other prompts")
    adapter = Adapting.begin(pipeline, run, base, rate, rank, seed)
    rng = np.random.default_rng((seed, run.step))
    asked = toytown_quizzes(rng) if quizzes is None else cycle(quizzes[i] for i in rng.permutation(len(quizzes)))
    while run.tick():
        numbers: dict[str, list[float]] = defaultdict(list)
        for quiz in islice(asked, how.prompts):
            group = draw(pipeline, quiz.prompt, how, int(rng.integers(SEEDS)))
            rewards = REWARDS[how.reward](pipeline, quiz, group.pictures)
            if how.reward != "answers":
                quiz = replace(quiz, questions=())  # which are learned with their reward only
            weights = WEIGHTS[how.weights](rewards, how.alpha)
            numbers["reward"].append(rewards.mean().item())
            numbers["groups of use"].append(float(weights.any()))
            steps = rng.choice(len(group.tokens) - 1, min(how.chosen, len(group.tokens) - 1), replace=False)
            for losses in learn(pipeline, adapter, quiz, group, weights, steps, how.kl_weight):
                (losses.total / how.prompts).backward()
                for name, value in losses.numbers().items():
                    numbers[name].append(value)
        adapter.step()
        run.report(**{name: float(np.mean(values)) for name, values in numbers.items()})


def draw(pipeline: Pipeline, prompt: str, how: Method, seed: int) -> Group:
    """Pictures of a prompt with consecutive seeds, each as a user of the checkpoint would have it."""
    vocab, defaults = pipeline.vocab, pipeline.defaults
    plan = Planner(vocab, defaults, pipeline.encode, pipeline.vq.cell).draw(how.request(prompt).resolve(defaults))
    branches = plan.branches(plan.grid)
    noises = [noise_of(defaults.noise, (seed + i) % SEEDS) for i in range(how.group)]
    states = unmask_images(pipeline.model.predict, [branches] * how.group, plan.sampling, noises, vocab.image_codes,
                           vocab.ids.mask)  # fmt: skip
    tokens = torch.stack([torch.stack([state.tokens for state in step]) for step in states])
    return Group(branches[0], tokens, tuple(plan.grid.shape))


def asked_about(pipeline: Pipeline, question: str, picture: Tensor) -> Branch:
    return layout.understanding(pipeline.vocab, question, [picture], pipeline.defaults.short_length)


def answers_right(pipeline: Pipeline, quiz: Quiz, pictures: list[Tensor]) -> Tensor:
    """(pictures,) float: how many of the questions the model answers as it should, all words of an answer at once; without
    questions how likely it finds that a picture shows the prompt. That is never learned as an answer: there is only one to learn.
    """
    vocab, right = pipeline.vocab, torch.zeros(len(pictures))
    if not quiz.questions:
        length = pipeline.defaults.short_length
        return torch.cat([agreement(pipeline.model.predict, vocab, quiz.prompt, picture, length) for picture in pictures])
    for question, answer in quiz.questions:
        branches = [asked_about(pipeline, question, picture) for picture in pictures]
        rows = torch.cat([i * len(branch.ids) + branch.cells for i, branch in enumerate(branches)])
        said = pipeline.model.predict(Packed.of([branch.ids for branch in branches]), rows, vocab.text_ids).argmax(-1).cpu()
        for i, ids in enumerate(said.view(len(pictures), -1)):
            right[i] += vocab.decode(layout.cut_answer(vocab, ids)).casefold() == answer.casefold()
    return right


def judged(pipeline: Pipeline, quiz: Quiz, pictures: list[Tensor]) -> Tensor:
    """(pictures,) float: what the judge of the built-in world thinks of them, see `credit`."""
    return torch.tensor([credit(quiz.judged, seen(pipeline, picture)) for picture in pictures])


def seen(pipeline: Pipeline, picture: Tensor) -> Reading:
    """What the judge sees in a picture, codes (h, w) long."""
    return read(np.asarray(pipeline.decode(picture, torch.zeros_like(picture, dtype=torch.bool))))


REWARDS: dict[str, Callable[[Pipeline, Quiz, list[Tensor]], Tensor]] = {"answers": answers_right, "judge": judged}
"""Where the reward comes from: the model's answers, as in the report, or Toytown's judge."""


def softmax_weights(rewards: Tensor, alpha: float) -> Tensor:
    """(pictures,) weights that add up to one: the softmax of alpha times how far a reward is above the group's mean (report).

    All nothing where the rewards (pictures,) are equal: there is nothing to be learned from such a group.
    """
    if len(rewards.unique()) == 1:
        return torch.zeros_like(rewards)
    return (alpha * (rewards - rewards.mean())).softmax(0)


def advantages(rewards: Tensor, alpha: float) -> Tensor:
    """(pictures,) weights that add up to nothing: rewards in standard deviations above the group's mean, over their number (GRPO,
    arXiv 2402.03300). A little is added to the deviation, lest a trifle count as much as all there is. alpha is not used.
    """
    return (rewards - rewards.mean()) / (rewards.std() + 0.2) / len(rewards)


WEIGHTS: dict[str, Callable[[Tensor, float], Tensor]] = {"softmax": softmax_weights, "advantages": advantages}


@dataclass(frozen=True)
class Losses:
    """Of a picture. nll_image, nll_answer: mean negative log-probability of the codes that a step filled in, or of the right
    answer; kl: mean KL(p ‖ p_ref) where those stand. total: what is minimised.
    """

    total: Tensor
    kl: Tensor
    nll_image: Tensor | None = None
    nll_answer: Tensor | None = None

    def numbers(self) -> dict[str, float]:
        """For the log."""
        return {name: loss.item() for name in ("kl", "nll_image", "nll_answer") if (loss := getattr(self, name)) is not None}


def learn(pipeline: Pipeline, adapter: Adapting, quiz: Quiz, group: Group, weights: Tensor, steps: np.ndarray, kl_weight: float
          ) -> Iterator[Losses]:
    """Losses of each picture at each of some steps, and of each answer on it, one after the other: their gradients add up.

    weights (pictures,); nothing comes where they are all nothing. An answer is never learned with a weight below nothing.
    """
    if not weights.any():
        return
    vocab, mean = pipeline.vocab, 1 / len(weights)
    for number, weight in enumerate(weights.tolist()):
        for step in steps:
            before, after = group.tokens[step, number], group.tokens[step + 1, number]
            filled = (before < 0) & (after >= 0)
            ids = fill_in(group.branch, before, vocab.image_codes, vocab.ids.mask)
            nll, kl = _likelihood(pipeline, adapter, ids, group.branch.cells[filled], after[filled], vocab.image_codes)
            yield Losses((weight * nll + mean * kl_weight * kl) / len(steps), kl, nll_image=nll)
        for question, answer in quiz.questions:
            branch = asked_about(pipeline, question, group.pictures[number])
            right = torch.tensor([*vocab.encode(answer), vocab.ids.answer_end])
            nll, kl = _likelihood(pipeline, adapter, branch.ids, branch.cells[: len(right)], right, vocab.text_ids)
            yield Losses((max(0.0, weight) * nll + mean * kl_weight * kl) / len(quiz.questions), kl, nll_answer=nll)


def _likelihood(pipeline: Pipeline, adapter: Adapting, ids: Tensor, rows: Tensor, targets: Tensor, part: slice
                ) -> tuple[Tensor, Tensor]:
    """Mean negative log-probability of targets (n,), counted from the start of a part of the vocabulary, at rows (n,) of a
    sequence ids, and the mean divergence there from the model without the adapter.
    """
    model = pipeline.model
    packed, rows, targets = Packed.of([ids]).to(model.device), rows.to(model.device), targets.to(model.device)
    states = model.hidden(packed)[rows]
    log_p = checkpoint(model.logits, states, part, use_reentrant=False).log_softmax(-1)  # lest copies of the head in float32 wait
    with torch.no_grad(), adapter.adapted.disable_adapter():
        log_ref = model(packed, rows, part).log_softmax(-1)
    kl = F.kl_div(log_ref, log_p, reduction="batchmean", log_target=True)
    return F.nll_loss(log_p, targets), kl
