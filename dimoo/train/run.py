"""What every training loop shares: a folder with a resumable state, a log, a loss curve, and a clock."""
from __future__ import annotations

import json
import math
import multiprocessing.pool
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from dimoo.errors import DimooError


class Run:
    """A training run in `folder`. It ends by the clock: `minutes` of training time in all, pauses not counted.

    Usage: build the modules, call `resume`, then loop `while run.tick(): …; run.report(loss=…)`.
    """

    def __init__(self, folder: str | Path, minutes: float, save_every: float = 3.0):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.minutes, self.save_every = minutes, save_every * 60
        self.step, self.before = 0, 0.0
        self.start = self.saved = self.shown = time.monotonic()
        self.modules: dict[str, object] = {}
        self.made_for, self.differs = "", "purpose"  # see `is_for`
        self.on_save: Callable[[], None] = lambda: None
        self._sums: dict[str, list[float]] = {}

    @property
    def elapsed(self) -> float:
        """Seconds of training, earlier sittings included."""
        return self.before + time.monotonic() - self.start

    @property
    def progress(self) -> float:
        """0 at the start, 1 at the end."""
        return min(1.0, self.elapsed / (self.minutes * 60))

    def resume(self, **modules) -> bool:
        """Name what has a state_dict; load the saved state if the folder has one.

        Raises DimooError when that state was made for something else.
        """
        self.modules = modules
        self.start = time.monotonic()
        state = self._state()
        if not state:
            return False
        for name, module in modules.items():
            module.load_state_dict(state[name])
        self.step, self.before = state["step"], state["elapsed"]
        print(f"continuing at step {self.step}, {self.before / 60:.1f} of {self.minutes:g} minutes", file=sys.stderr)
        return True

    def is_for(self, facts: str, differs: str = "tokenizer, size, world, seed or start") -> None:
        """Tell what the run depends on, before anything costly is made for it; raises DimooError as `resume` does.

        differs: what facts are of, in words, for that.
        """
        self.made_for, self.differs = facts, differs
        self._state(mmap=True)

    def _state(self, mmap: bool = False) -> dict:
        path = self.folder / "state.pt"
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap) if path.exists() else {}
        if state.get("made_for", self.made_for) != self.made_for:
            raise DimooError(f"{self.folder} holds a run with another {self.differs}: choose another folder.")
        return state

    def save(self) -> None:
        state = {name: module.state_dict() for name, module in self.modules.items()}
        facts = {"step": self.step, "elapsed": self.elapsed, "made_for": self.made_for}
        torch.save(state | facts, self.folder / "state.tmp")
        os.replace(self.folder / "state.tmp", self.folder / "state.pt")
        self.saved = time.monotonic()
        curve(self.folder)
        self.on_save()

    def tick(self) -> bool:
        """Save when it is time to; False when the training is over."""
        over = self.progress >= 1
        if self.modules and (over or time.monotonic() - self.saved > self.save_every):
            self.save()
        self.step += not over
        return not over

    def note(self, **settings) -> None:
        """Keep what this sitting was asked for, as a line of settings.jsonl: much of it may differ from one to the next."""
        with (self.folder / "settings.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, "minutes_before": round(self.before / 60, 2)} | settings) + "\n")

    def report(self, **values: float) -> None:
        """Collect the step's numbers; print and log their means every ten seconds."""
        for name, value in values.items():
            self._sums.setdefault(name, []).append(float(value))
        if time.monotonic() - self.shown < 10:
            return
        self.shown = time.monotonic()
        means = {name: sum(v) / len(v) for name, v in self._sums.items()}
        self._sums.clear()
        left = self.minutes - self.elapsed / 60
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"step": self.step, "minutes": round(self.elapsed / 60, 2)} | means) + "\n")
        numbers = "  ".join(f"{name} {mean:.4g}" for name, mean in means.items())
        print(f"step {self.step}  {numbers}  {left:.1f} min left", file=sys.stderr, flush=True)


@contextmanager
def denormals_as_zeros() -> Iterator[None]:
    """Vanishing moments of an optimiser are a hundred times slower than zeros; afterwards small numbers count again."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def pool(workers: int) -> multiprocessing.pool.Pool:
    """Processes to draw in. Forked ones start at once, which is safe on Linux alone."""
    kind = "fork" if sys.platform == "linux" else "spawn"
    return multiprocessing.get_context(kind).Pool(workers)


def cosine(progress: float, peak: float, warmup: float = 0.02, floor: float = 0.02) -> float:
    """Learning rate at a progress in [0, 1]: linear warm-up to `peak`, then a cosine down to `floor` of it."""
    if progress < warmup:
        return peak * (progress / warmup + 1e-3)
    t = (progress - warmup) / (1 - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * t)))


def read_log(folder: Path) -> list[dict[str, float]]:
    """The rows of log.jsonl; a last line that was cut off is left out."""
    rows = []
    for line in (folder / "log.jsonl").read_text().splitlines() if (folder / "log.jsonl").exists() else ():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """A worker to each processor, for which torch takes one thread meanwhile: faster on small work than all on one piece."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as executor:
            yield executor
    finally:
        torch.set_num_threads(threads)


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which is gone if the block does not end well."""
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the block ends well."""
    old = folder.with_name(f"{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)  # an earlier replacement was cut off between its two steps
    shutil.rmtree(old, ignore_errors=True)
    with beside(folder) as new:
        yield new
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def curve(folder: Path, size: tuple[int, int] = (800, 400)) -> None:
    """Draw every logged number over the steps into curve.png, each scaled to its own range (logarithmic)."""
    rows = read_log(folder)
    if not rows:
        return
    names = [n for n in dict.fromkeys(n for row in rows for n in row) if n not in ("step", "minutes")]
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    w, h = size[0] - 20, size[1] - 20
    for i, name in enumerate(names):
        points = [(r["step"], math.log(max(r[name], 1e-8))) for r in rows if name in r]
        low, high = min(p[1] for p in points), max(p[1] for p in points)
        color = f"hsl({i * 360 // len(names)},70%,40%)"
        span, last = max(high - low, 1e-6), max(rows[-1]["step"], 1)
        draw.line([(10 + w * s / last, 10 + h * (1 - (v - low) / span)) for s, v in points], color, 2)
        draw.text((w - 230, 12 + 14 * i), f"{name}: {math.exp(high):.4g} … {math.exp(points[-1][1]):.4g}", color)
    image.save(folder / "curve.png")
