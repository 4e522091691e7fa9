"""Triton kernels of memcore, named as the ops, and their launchers over torch tensors.

Files here import each other relatively and never import memcore. A launcher has the parameters of
its namesake in `memcore._core`; it allocates through torch, runs on torch's current stream and
never waits for it.
"""

from contextlib import AbstractContextManager

import torch
import triton

from . import coded, fetch, named_pages, pages
from .aggregate import aggregate, dots, scatter
from .attend import attend, attend_backward
from .buckets import bucket_add, bucket_search, sketch_add
from .codebook import assign, codebook_ema, codebook_sums, decode, search_codes
from .hamming import hamming_search
from .limits import Conditions, Limits
from .lsh import lay_out, lsh_encode
from .probing import lsh_probes
from .runs import runs_of
from .scan_pages import Pages
from .search import norms, search, search_ragged
from .search_pages import search_pages
from .select import select
from .topk import topk
from .visits import visits

__all__ = [
    "Conditions",
    "Limits",
    "Pages",
    "aggregate",
    "assign",
    "attend",
    "attend_backward",
    "bucket_add",
    "bucket_search",
    "check",
    "codebook_ema",
    "codebook_sums",
    "coded",
    "decode",
    "dots",
    "fetch",
    "hamming_search",
    "lay_out",
    "lsh_encode",
    "lsh_probes",
    "named_pages",
    "norms",
    "pages",
    "place",
    "runs_of",
    "scatter",
    "search",
    "search_codes",
    "search_pages",
    "search_ragged",
    "select",
    "sketch_add",
    "topk",
    "visits",
]


def check(op: str, error: type[Exception], array: object) -> None:
    """Raise an error, in the caller's class, unless kernels can read an array where it lies."""
    place = array.device if isinstance(array, torch.Tensor) else "the host, as NumPy's"
    readable = {"cuda", "cpu"} if triton.knobs.runtime.interpret else {"cuda"}
    is_read = isinstance(array, torch.Tensor) and array.device.type in readable
    if not is_read:
        raise error(f"{op}: an array is on {place}, should be on a GPU where triton runs")


def place(array: torch.Tensor) -> AbstractContextManager[object]:
    """A context in which launches go to an array's device: Triton takes torch's current one."""
    return torch.cuda.device_of(array)
