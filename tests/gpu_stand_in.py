"""The worker of the GPU's bench where there is none: kernels interpreted, events by the clock.

Run as a script it does what `python -m memcore.bench.gpu_worker` does.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import interpreter
from ops_of_torch import by_interpreter


class Event:
    """A CUDA event on a device that is done at once."""

    def __init__(self, enable_timing=False):
        self.at = None

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        """Nothing is under way."""

    def elapsed_time(self, other):
        return 1e3 * (other.at - self.at)


if __name__ == "__main__":
    interpreter.install()
    import torch

    from memcore.bench import gpu_worker

    torch.cuda.Event = Event
    torch.cuda.synchronize = lambda: None
    gpu_worker._BUDGET_S, gpu_worker._FLUSHED_BYTES = 0.0, 1
    with by_interpreter():
        sys.exit(gpu_worker.main(gpu_worker.Request(**json.loads(sys.argv[1]))))
