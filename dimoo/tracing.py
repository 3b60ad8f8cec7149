"""How much memory a computation holds at its worst moment, found by running it on tensors without contents.

On the meta device an operation only works out shapes, so the real code of a model of any size can be followed in a moment,
without its weights. What operations use inside themselves (workspaces of libraries) is not seen.
"""
from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class LikeADevice(TorchFunctionMode):
    """Lets code for real devices run on the meta device.

    Attention makes nothing but its result, as the kernels of real devices do; the meta device would make all scores.
    What is brought to the processor gets contents: zeros.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        if func is Tensor.cpu and args[0].is_meta:
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        return func(*args, **(kwargs or {}))


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of meta tensors that come into being while it is entered, and the most that were alive at once.

    Tensors that were there before, such as weights, are not counted, nor are those of the processor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        tree_map_only(Tensor, self._known_before, (args, kwargs))
        result = func(*args, **kwargs)
        tree_map_only(Tensor, self._born, result)
        self.peak = max(self.peak, self.live)
        return result

    def _known_before(self, tensor: Tensor) -> None:
        self._remember(tensor.untyped_storage(), 0)

    def _born(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._remember(storage, storage.nbytes() if tensor.is_meta else 0)

    def _remember(self, storage: torch.UntypedStorage, size: int) -> None:
        name = id(storage)  # the same for all tensors that share the storage, for as long as it lives
        if name not in self._known:
            self.live += size
            self._known[name] = weakref.ref(storage, lambda _: self._forget(name, size))

    def _forget(self, name: int, size: int) -> None:
        del self._known[name]
        self.live -= size


@torch.no_grad()
def peak_of(work: Callable[[], object]) -> int:
    """The most bytes that `work`, on meta tensors, holds at once beyond what was there before it."""
    with PeakMemory() as memory, LikeADevice():
        work()
    return memory.peak
