"""How many bytes a launcher has allocated at its peak, at sizes that nobody has memory for.

Tensors are torch's "meta" ones, which have shapes and no memory, and launches do nothing.
"""

import contextlib

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from triton.runtime import interpreter

# What a sort takes within, of what it returns: keys and places, each there and back.
_WITHIN_SORT = 2


def meta(*shape, dtype=torch.float32):
    """A tensor of any size, which is not counted."""
    with _disable_current_modes():
        return torch.empty(shape, dtype=dtype, device="meta")


class Scratch(TorchDispatchMode):
    """Counts what torch allocates while it is entered, as long as it is alive.

    Attributes:
        peak: the most bytes at one time, of what torch sorts within too.
    """

    def __init__(self):
        super().__init__()
        self._live = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {each.untyped_storage()._cdata for each in _tensors((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        self._live = {at: each for at, each in self._live.items() if not each[0].expired()}
        new = 0
        for each in _tensors(made):
            storage = each.untyped_storage()
            if storage._cdata not in given | self._live.keys():
                self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                new += storage.nbytes()
        within = _WITHIN_SORT * new if func.overloadpacket is torch.ops.aten.sort else 0
        self.peak = max(self.peak, within + sum(size for _, size in self._live.values()))
        return made


def _tensors(given):
    return [each for each in tree_leaves(given) if isinstance(each, torch.Tensor)]


@contextlib.contextmanager
def scratch(monkeypatch):
    """A `Scratch`, entered, while launches do nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(interpreter.GridExecutor, "__call__", lambda *_, **__: None)
        with Scratch() as counted:
            yield counted
