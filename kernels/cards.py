"""What a card offers, where that decides which kernel runs, or how large its tiles are."""

import functools

import torch
import triton


def has_large_memory(device: torch.device) -> bool:
    """Whether a program may have 160 KB of shared memory, or more, and not 99 KB.

    So it is on the cards of data centres (sm_80, sm_90, sm_100), and where kernels are interpreted.
    """
    return device.type != "cuda" or _properties(device.index)["max_shared_mem"] >= 160_000


def n_multiprocessors(device: torch.device) -> int:
    """How many programs of the largest size run at once; 1 where they are interpreted."""
    return 1 if device.type != "cuda" else _properties(device.index)["multiprocessor_count"]


def is_at_least(device: torch.device, major: int) -> bool:
    """Whether a card's architecture is this one or newer; what is interpreted is the newest."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= major


@functools.cache
def _properties(device: int) -> dict[str, int]:
    found: dict[str, int] = triton.runtime.driver.active.utils.get_device_properties(device)
    return found
