"""What a card offers, where that decides which kernel runs."""

import torch

# What a program of an A100, an H100 or a B200 may have, and no card of sm_86, sm_89 or sm_120.
LARGE = 160 << 10


def has_large_memory(device: torch.device) -> bool:
    """Whether a program may have LARGE bytes of shared memory; so may one that is interpreted."""
    if device.type != "cuda":
        return True
    card = torch.cuda.get_device_properties(device)
    return int(getattr(card, "shared_memory_per_block_optin", 0)) >= LARGE


def n_multiprocessors(device: torch.device) -> int:
    """How many programs of the largest size a card runs at once; 1 where they are interpreted."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def is_at_least(device: torch.device, major: int) -> bool:
    """Whether a card's architecture is this one or newer; what is interpreted is the newest."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= major
