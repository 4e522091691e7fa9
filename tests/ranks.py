"""What a rank of a distributed test runs: in a module that its process can import."""

import numpy as np
import torch

from memcore.nn import VectorQuantizer


def learn_together(rank, n_ranks, where, batches):
    """One of the ranks: learns from its share of each batch, and saves what it knows."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{where}/meeting", rank=rank, world_size=n_ranks
    )
    layer = VectorQuantizer(24, 6, n_levels=2, decay=0.9)
    for batch in batches:
        # Shares of different sizes.
        layer(torch.from_numpy(np.array_split(batch, [len(batch) // 3])[rank]))
    state = layer.book.state
    np.savez(
        f"{where}/{rank}.npz",
        codewords=state.codewords,
        sums=state.sums,
        usage=state.usage,
        n_seeded=state.n_seeded,
    )
    torch.distributed.destroy_process_group()
