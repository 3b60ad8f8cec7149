"""Training of the transformer: masked prediction of image codes, as published (report, section 4).

The objective is the published one, mean cross-entropy over the whole vocabulary on the masked positions; row ends and markers are
never masked. What comes on top of it is in `losses`, and what is masked in other ways than published in `masks`.
The optimiser is Muon for the hidden matrices and AdamW for the rest. Products are in bfloat16 where the machine is faster at it,
weights and sums in float32.
"""
from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from dimoo.checkpoint import find, load
from dimoo.config import LLaDAConfig
from dimoo.errors import DimooError
from dimoo.model import DiMOO
from dimoo.precision import fastest_dtype
from dimoo.preview import fit
from dimoo.train.apart import ENOUGH, head_states, levels_told, tell_apart, telling
from dimoo.train.data import Teacher
from dimoo.train.families import SCENES_OF_A_SEED, Family, digest_of, encode_families, fingerprint
from dimoo.train.grounding import depths, meanings
from dimoo.train.growing import grown
from dimoo.train.initial import new_model, trained_model
from dimoo.train.losses import Reader, losses_of
from dimoo.train.masks import mask_cells
from dimoo.train.muon import Muon
from dimoo.train.own import own_pictures
from dimoo.train.publish import DEMO, FROM_WORDS, export, sample_grid
from dimoo.train.run import Run, denormals_as_zeros
from dimoo.train.words import TEXT_IDS, write_tokenizer
from dimoo.vocab import Vocabulary
from dimoo.vq import VQModel
from dimoo.world.parts import LABELS

SIZE = {"d_model": 192, "n_heads": 6, "n_kv_heads": 6, "n_layers": 10, "mlp_hidden_size": 576, "rope_theta": 1e6}

ROWS_RATE = 0.1
"""Learning rate of embedding and head, in parts of the others'."""

LESSONS_EACH = 3
"""Lessons that start from each scene that is taught."""

WARM_UP, FITTING = 50, 60
"""Steps in which the rate rises, and steps before that in which a new reader is fitted to a model that is trained already."""

POINTING_RATE = 4.0
"""Learning rate of the two blocks whose heads are taught where to look (`grounding`), in parts of the others', in a new model."""


def shares(tasks: str, progress: float, own: bool = False) -> dict[str, float]:
    """How many of the examples are of which kind; see `Teacher`. Crowded pictures teach what things are, and come first where
    words are to be learned with them; a lesson is twice as long as a picture, and takes twice the time. own: whether there are
    pictures of the model's own to be checked.
    """
    if tasks == "generate":
        crowd = 0.7 if progress < 0.5 else 0.15
        return {"crowd": crowd, "generate": 1 - crowd}
    if own:
        return {"crowd": 0.09, "generate": 0.34, "chat": 0.14, "lesson": 0.25, "check": 0.18}
    return {"crowd": 0.07, "generate": 0.30, "chat": 0.14, "lesson": 0.49}


def optimizers(model: DiMOO, reader: Reader, rate: float, pointing_rate: float = POINTING_RATE) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the rest.

    Codes of things are rare, and a step of AdamW on a rare row is as long as on a common one: at the rate of the others it would
    wipe out what `new_model` says about which codes are alike.
    """
    body = model.model["transformer"]
    pointing = depths(len(body["blocks"]))
    matrices: dict[bool, list[Tensor]] = {False: [], True: []}
    for i, block in enumerate(body["blocks"]):
        matrices[i in pointing] += [p for p in block.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim == 1]
    hidden = [{"params": matrices[False], "scale": 1.0}, {"params": matrices[True], "scale": pointing_rate}]
    others = [
        {"params": [body["wte"].weight, body["ff_out"].weight], "scale": ROWS_RATE},
        {"params": norms, "scale": 1.0},
        {"params": list(reader.parameters()), "scale": 1.0, "reads": True},
    ]
    muon = Muon(hidden, rate, weight_decay=0.05, dtype=fastest_dtype())
    return [muon, torch.optim.AdamW(others, rate, betas=(0.9, 0.95), weight_decay=0.0)]


def rate_of(group: dict, rate: float, step: int, progress: float, fitting: int) -> float:
    """Of a group of `optimizers`: a rise, `rate` for three tenths of the time, then a straight line to nothing. In the first
    `fitting` steps only the reader learns.
    """
    since = step if group.get("reads") else step - fitting
    warm = min(1.0, max(0, since) / WARM_UP)
    return group["scale"] * rate * warm * min(1.0, (1 - progress) / 0.7 + 0.01)


@denormals_as_zeros()
def train_transformer(folder: str | Path, tokenizer: str | Path | None, minutes: float, tasks: str = "all", scenes: int = 4000,
                      taught: int = 4000, tokens: int = 3200, rate: float = 4e-3, seed: int = 0,
                      size: dict | None = None, start: str | Path | None = None, own: int = 0) -> DiMOO:
    """Train for `minutes` in `folder` (resumable); leaves a checkpoint in `folder/checkpoint`.

    tokenizer: folder of the image tokenizer that comes with it; None for that of `start`.
    tasks: "generate", text to image alone, or "all". scenes: how many there are, and as many crowded ones; the first `taught` of
    them come with lessons on the other tasks. tokens: of a step, in equally long sequences. seed: of all that is random; another
    one means other scenes too. start: a checkpoint to train further instead of new weights.
    size: of new weights, SIZE if None; or what those of `start` are grown to before, if given. own: how many pictures `start`
    draws first, to learn from what the judge sees there, when it is taught all tasks.
    Raises DimooError when `start` was taught other words or the codes of another tokenizer, or is larger than `size`.
    """
    run = Run(folder, minutes, save_every=5)
    write_tokenizer(run.folder / "words")
    if start:
        start = find(start)
        tokenizer, model = tokenizer or start / "vqvae", trained_model(start, run.folder / "words")
        if size:
            model = grown(model, LLaDAConfig(**model.config.to_dict() | size), seed)
        vq = VQModel.load(tokenizer)
        if fingerprint(vq) != fingerprint(VQModel.load(start / "vqvae")):
            raise DimooError(f"{tokenizer} makes other codes than {start} was taught: it cannot be trained further with them.")
    else:
        vq = VQModel.load(tokenizer)
        table = TEXT_IDS + len(vq.codebook)
        config = LLaDAConfig(**(size or SIZE), vocab_size=table, embedding_size=table, codebook_size=len(vq.codebook),
                             torch_dtype="float16")
        model = new_model(config, vq.codebook, seed)
    config = model.config
    begun = f"from {digest_of(model.state_dict().values())}" if start else "from nothing"
    run.is_for(f"{fingerprint(vq)} {[getattr(config, name) for name in SIZE]} {LABELS} seed {seed} {begun}")
    vocab = Vocabulary.load(run.folder / "words", config)
    first = seed * SCENES_OF_A_SEED
    families = [Family(first + i, LESSONS_EACH if tasks == "all" and i < taught else 0) for i in range(scenes)]
    families += [Family(first + i, crowded=True) for i in range(scenes)]
    drawn = own_pictures(load(start, "cpu"), run.folder, own, seed) if own else ()
    teacher = Teacher(vocab, encode_families(vq, run.folder, families), families, drawn)
    reader = Reader(config)
    meaning = meanings(vocab)
    if start and levels_told(model) < ENOUGH:  # a run that goes on has its own weights, which take the place of these
        some = islice(teacher.batches(tokens // 2, seed, lambda: shares(tasks, 1.0)), 40)
        tell_apart(model, head_states(model, some, torch.Generator().manual_seed(seed)))
    reader.said.weight.data.copy_(telling(model))
    muon, adam = optimizers(model, reader, rate, 1.0 if start else POINTING_RATE)
    squares = [f.base for f in families if (f.base.rows, f.base.columns) == (16, 16)]
    preview = fit(vq, torch.stack([teacher.grid(shot) for shot in squares[:48]]), cell_pixels=8)

    assess = "question" if own else DEMO["assess"]
    learned = DEMO["tasks"] if tasks == "all" else config.demo.get("tasks", FROM_WORDS)

    def save() -> None:
        export(model, Path(tokenizer), preview, run.folder / "checkpoint", assess=assess, tasks=learned)
        if run.progress >= 1:  # it takes a while
            sample_grid(run.folder / "checkpoint", run.folder / "samples.png")

    run.on_save = save
    run.resume(model=model, reader=reader, muon=muon, adam=adam)
    run.note(start=str(start or ""), tasks=tasks, shares=shares(tasks, run.progress, own > 0), scenes=scenes, taught=taught,
             tokens=tokens, rate=rate, minutes=minutes, seed=seed, own=own)
    stream = teacher.batches(tokens // 2, (seed, run.step), lambda: shares(tasks, run.progress, own > 0))
    generator = torch.Generator().manual_seed(seed + run.step)
    if shutil.which("g++"):
        for block in model.model["transformer"]["blocks"]:
            block.compile(dynamic=True)  # fuses what lies between the matrix products: 1.4 times the speed on a CPU
    dtype = fastest_dtype()
    while run.tick():
        for optimizer in (muon, adam):
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate_of(group, rate, run.step, run.progress, FITTING if start else 0)
        numbers: dict[str, float] = {}
        for examples in (next(stream), next(stream)):  # two, so that most steps see two tasks or sizes
            masked = [mask_cells(example, generator) for example in examples]
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                losses = losses_of(model, reader, vocab, meaning, examples, masked, generator)
            (losses.total / 2).backward()
            numbers |= losses.numbers() if examples[0].draws else {f"{name} in talk": v for name, v in losses.numbers().items()}
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adam.step()
        run.report(**numbers)
    return model
