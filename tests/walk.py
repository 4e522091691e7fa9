"""Where random walks draw their numbers."""


class Walk:
    """Many numbers drawn at once: one at a time would cost more than the steps."""

    def __init__(self, rng):
        self.rng = rng
        self.drawn = []

    def below(self, n):
        if not self.drawn:
            self.drawn = self.rng.integers(0, 2**40, 4096).tolist()
        return self.drawn.pop() % n
