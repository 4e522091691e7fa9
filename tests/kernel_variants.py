"""All kernels as they are launched on a GPU, one list a family."""

from variants.lsh import VARIANTS as LSH
from variants.search import VARIANTS as SEARCH
from variants.topk import VARIANTS as TOPK
from variants.variant import ARCHITECTURES

__all__ = ["ARCHITECTURES", "VARIANTS"]

VARIANTS = {**LSH, **SEARCH, **TOPK}
