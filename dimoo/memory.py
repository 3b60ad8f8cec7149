"""How much memory is free, whether a run fits into it, and what becomes of running out all the same."""
from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from dimoo.errors import DimooError
from dimoo.outline import Need, Work
from dimoo.plans import Plan, Talk

ADVICE = "Choose a smaller size, switch the cache off, or load the checkpoint with --quantize int8 or nf4."
ROUND = 64  # tokens
# How running out is put in errors without a type of their own: on the processor, by the driver, and by its libraries.
EXHAUSTED = (
    "can't allocate memory", "not enough memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip


def work_of(plan: Plan | Talk, given: Sequence[tuple[int, int]] = ()) -> Work:
    """The size of a run; given: (h, w) cells of the pictures that are encoded for it.

    Of windows the largest counts, with all its cells masked; lengths are rounded up, so that sizes come again and again.
    """
    if isinstance(plan, Talk):
        sampling = plan.sampling
        return Work((rounded(len(plan.branch.ids)),), len(plan.branch.cells), None, tuple(given), sampling.block, sampling.reuse)
    works = []
    for window in plan.windows:
        branches = plan.sampling.used_branches(plan.branches(plan.grid[window.slices]))
        lengths = tuple(rounded(len(branch.ids)) for branch in branches)
        cells = window.height * window.width
        works.append(Work(
            lengths, cells, tuple(plan.grid.shape), tuple(given), cache=plan.sampling.reuse is not None,
            top_k=plan.sampling.top_k, plausible=plan.sampling.plausible,
        ))  # fmt: skip
    return max(works, key=lambda work: (sum(work.lengths), work.masked))


def rounded(length: int) -> int:
    return -(-length // ROUND) * ROUND


def free_bytes(device: torch.device) -> int | None:
    """Memory that a run can have on a device; None where that cannot be told.

    On a graphics card this counts what torch keeps for later; on the processor a container's limit counts too.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    return min((n for n in (available_bytes(), container_bytes()) if n is not None), default=None)


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    try:
        return int(re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())[1]) * 1024
    except (OSError, TypeError):
        return None


def container_bytes(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container may still take (control groups, version 2); files that are kept in memory make room when it is needed."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        files = re.findall(r"^(?:in)?active_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
        return int(limit) - int(used) + sum(map(int, files))
    except (OSError, ValueError, TypeError):
        return None


def check_fits(need: Need, device: torch.device, what: str = "This request") -> None:
    """Raises DimooError when a run takes more than is free beside the weights, which are loaded."""
    free = free_bytes(device)
    if free is not None and need.run > free:
        raise DimooError(
            f"{what} needs about {gigabytes(need.run)} GB of memory beside the weights, "
            f"but only {gigabytes(free)} GB are free. {ADVICE}"
        )


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Turns running out of memory on the device into a DimooError, and gives back what torch keeps for later."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error) for words in EXHAUSTED):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the run
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise DimooError(f"The memory of the device ran out. {ADVICE}") from None


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f}" if count < 1e9 else f"{count / 1e9:.1f}"
