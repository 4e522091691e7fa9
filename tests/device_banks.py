"""The same banks on the CPU and on a device: a GPU, or the host where kernels are interpreted."""

import numpy as np
from torch.utils._python_dispatch import TorchDispatchMode

import memcore
from cases import normal
from compare import assert_hits
from on_device import DEVICE, host, tensor

# What reads the host's memory for a number of the device.
WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique"}
FIELDS = {"time": "int64", "weight": "float64", "who": "str"}


class Named(TorchDispatchMode):
    """The names of what torch did."""

    def __init__(self):
        super().__init__()
        self.ops = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Both:
    """The same banks in an arena of the CPU and in one of the device."""

    def __init__(self, rng, metric="cosine", dtype="float32", dim=20, codebook=None, **options):
        given = {"metric": metric, "dtype": dtype, "fields": FIELDS, "codebook": codebook}
        self.arenas = [
            memcore.Arena(dim, **given, **each) for each in ({}, {"device": "cuda", **options})
        ]
        rows = normal(rng, 80, dim)
        rows[7] = rows[60] = 0
        rows[20:24] = rows[30]
        fields = {
            "time": [None if i % 7 == 0 else i % 50 for i in range(80)],
            "weight": [None if i % 11 == 0 else (i % 13) / 4 - 1 for i in range(80)],
            "who": [("ana", "bob", None)[i % 3] for i in range(80)],
        }
        self.changed = normal(rng, 3, dim)
        for arena in self.arenas:
            # One bank is empty; ids of one are not in the order of its rows.
            banks = arena.new(3)
            arena.add(np.repeat(banks[:2], [50, 30]), rows, fields=fields)
            arena.delete(banks[0], [0, 5, 40, 41])
            forks = arena.fork(banks[:2], 2)
            arena.update(forks[0, 0], [3, 20, 49], self.changed)
            arena.delete(forks[1, 1], np.arange(10, 29, 3), missing="skip")
            self.banks = np.concatenate([banks, forks.reshape(-1)])

    def search(self, queries, k, kind="both", **options):
        """Hold the hits for NumPy's queries, for tensors, or both against those of the CPU."""
        cpu, device = self.arenas
        expected = cpu.search(self.banks, queries, k, **options)
        if kind != "tensors":
            assert_hits(device.search(self.banks, queries, k, **options), expected)
        if kind == "numpy":
            return
        if "candidates" in options:
            options["candidates"] = tensor(options["candidates"])
        found = device.search(tensor(self.banks), tensor(queries), k, **options)
        assert found.ids.device.type == DEVICE
        assert_hits(host(found), expected)
