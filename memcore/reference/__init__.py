"""Every op in plain NumPy: what the engines return, and the oracle of their tests.

Where scores decide, the engines return the same bits. Written to be read; it is slow and keeps no
bound, no shadow and no threads. It presumes the default float environment (round to nearest even,
denormals kept), which NumPy cannot set: the compiled engine sets it for itself, this does not.
"""

from memcore.reference.attend import (
    aggregate,
    attend,
    attend_backward,
    dots,
    merge_lse,
    scatter,
)
from memcore.reference.buckets import bucket_add, bucket_search, sketch_add
from memcore.reference.codebook import (
    assign,
    codebook_ema,
    codebook_sums,
    decode,
    pack_codes,
    search_codes,
    unpack_codes,
)
from memcore.reference.lsh import (
    hamming_search,
    lsh_encode,
    lsh_planes,
    lsh_probes,
    lsh_scores,
)
from memcore.reference.queue import disperse, gather, gather_backward, nce, outer_write
from memcore.reference.search import (
    LANES,
    MAX_SQUARE,
    canonical_sum,
    final_score,
    norms,
    score,
    search,
    search_ragged,
    squares,
    topk,
    widen,
)

__all__ = [
    "LANES",
    "MAX_SQUARE",
    "aggregate",
    "assign",
    "attend",
    "attend_backward",
    "bucket_add",
    "bucket_search",
    "canonical_sum",
    "codebook_ema",
    "codebook_sums",
    "decode",
    "disperse",
    "dots",
    "final_score",
    "gather",
    "gather_backward",
    "hamming_search",
    "lsh_encode",
    "lsh_planes",
    "lsh_probes",
    "lsh_scores",
    "merge_lse",
    "nce",
    "norms",
    "outer_write",
    "pack_codes",
    "scatter",
    "score",
    "search",
    "search_codes",
    "search_ragged",
    "sketch_add",
    "squares",
    "topk",
    "unpack_codes",
    "widen",
]
