"""Arrays where kernels read them: on a GPU, or on the host where kernels are interpreted."""

import numpy as np
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tensor(array):
    """A copy there, in order of C."""
    array = np.array(array, order="C")
    if array.dtype == np.uint64:
        # NumPy's and torch's do not know each other everywhere.
        return torch.from_numpy(array.view(np.int64)).to(DEVICE).view(torch.uint64)
    return torch.from_numpy(array).to(DEVICE)


def host(tensors):
    """Arrays of NumPy, of all of them."""
    return tuple(each.cpu().numpy() for each in tensors)
