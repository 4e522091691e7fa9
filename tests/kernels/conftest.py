"""The ops of torch.library by their kernels, on tensors of the host where there is no GPU."""

import warnings

import pytest

OPS = (
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


@pytest.fixture
def by_kernels():
    """The device on which the ops run by kernels: a GPU, or the host while the test lasts."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    from memcore import autograd, autograd_device, autograd_queue  # noqa: F401

    if torch.cuda.is_available():
        yield "cuda"
        return
    library = torch.library.Library("memcore", "IMPL")
    with warnings.catch_warnings():
        # torch says once that something is overridden.
        warnings.simplefilter("ignore")
        for op in OPS:
            library.impl(op, getattr(autograd_device, op), "CPU", allow_override=True)
    yield "cpu"
    library._destroy()
