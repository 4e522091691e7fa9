"""The ops of torch.library, run by kernels on tensors of the host."""

import warnings
from contextlib import contextmanager

# What there is for tensors that need gradients.
OPS_OF_TORCH = (
    "select",
    "dots",
    "aggregate",
    "scatter",
    "attend",
    "attend_backward",
    "log_sum_exp",
    "log_sum_exp_backward",
    "gather",
    "gather_backward",
)


@contextmanager
def by_interpreter():
    """Have the host's tensors go the way of a device's, while it lasts."""
    import torch

    from memcore import autograd, autograd_device, autograd_queue  # noqa: F401

    library = torch.library.Library("memcore", "IMPL")
    with warnings.catch_warnings():
        # torch says once that something is overridden.
        warnings.simplefilter("ignore")
        for op in OPS_OF_TORCH:
            library.impl(op, getattr(autograd_device, op), "CPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()
