"""Wrong single values, wherever one is taken: a typed sentence, and nothing changes."""

import re

import numpy as np
import pytest

import memcore
from memcore.errors import BackendError, DtypeError, InputError, ShapeError

TYPED = (BackendError, DtypeError, InputError, ShapeError)
WHOLE = ("x", 1.5, True, 1j, [1, 2], {}, object(), np.ones((2, 2), int), int, -1, 2**70)
NUMBER = ("x", True, 1j, [1.0, 2.0], {}, object(), np.ones((2, 2)), float("nan"), 10**400)
WORD = ("x", 3, b"x", ["dot"], {}, object(), np.array(["a", "b"]), np.ones((2, 2)), str)
MAPPING = tuple(value for value in WORD if value.__class__ is not dict)
# An array is one for each batch.
BETA = ("x", True, {}, object(), float("nan"), 10**400, 0.0)
KINDS = {"beta": BETA, "whole": WHOLE, "number": NUMBER, "word": WORD, "mapping": MAPPING}

QUERIES = np.ones((2, 4), np.float32)
KEYS = np.ones((6, 4), np.float32)
LSH = memcore.LSH(4, 8)
WIDE = memcore.LSH(4, 64)
TABLE = memcore.BucketTable(2, 1, 2)


def bank_of(**options):
    bank = memcore.Bank(4, fields={"t": "int64"}, **options)
    bank.add(KEYS, fields={"t": range(6)}, payloads=list("abcdef"))
    return bank


BANK = bank_of()
ARENA = memcore.Arena(4)
BANKS = ARENA.new(2)
QUEUE = memcore.Queue(4)
QUEUE.add(QUERIES)
GROUPS = memcore.Queue(4, n_groups=2)
GROUPS.add(QUERIES, groups=[0, 1])
BOOK = memcore.Codebook(4, 4)
BOOK.fit(KEYS)
CODES = BOOK.quantize(QUERIES)


def attend(**options):
    return memcore.attend(QUERIES, KEYS, **{"beta": 1.0, **options})


def made(kind, *given):
    """By the name of an argument, the call that makes one with it."""
    return lambda name: lambda value: kind(*given, **{name: value})


lsh, book, outer = made(memcore.LSH, 4), made(memcore.Codebook, 4, 4), made(memcore.OuterMemory)
gate, queue, arena = made(memcore.Gate, 0.5), made(memcore.Queue, 4), made(memcore.Arena, 4)
bank, table, sketch = (
    made(memcore.Bank, 4),
    *(made(kind, 2, 1, 2) for kind in (memcore.BucketTable, memcore.SketchTable)),
)
# The op, what an argument is, its name, and the call in which it alone is wrong.
CALLS = [
    ("search", "word", "metric", lambda x: memcore.search(QUERIES, KEYS, metric=x)),
    ("search", "word", "backend", lambda x: memcore.search(QUERIES, KEYS, backend=x)),
    ("search", "word", "metric", lambda x: memcore.search(QUERIES, BANK, metric=x)),
    ("search", "word", "backend", lambda x: BANK.search(QUERIES, backend=x)),
    ("topk", "word", "backend", lambda x: memcore.topk(QUERIES, backend=x)),
    ("explain", "word", "op", memcore.explain),
    ("set_isa", "word", "name", memcore.set_isa),
    ("set_threads", "whole", "n", memcore.set_threads),
    ("attend", "whole", "k", lambda x: attend(k=x)),
    ("attend", "beta", "beta", lambda x: attend(beta=x)),
    ("attend", "whole", "steps", lambda x: attend(steps=x)),
    ("attend", "number", "tol", lambda x: attend(tol=x, steps=2)),
    ("attend", "whole", "k", lambda x: BANK.attend(QUERIES, x, beta=1.0)),
    ("nce", "number", "temperature", lambda x: memcore.nce(QUERIES, QUERIES, KEYS, temperature=x)),
    ("nce", "word", "reduction", lambda x: memcore.nce(QUERIES, QUERIES, KEYS, reduction=x)),
    ("disperse", "number", "tau", lambda x: memcore.disperse(QUERIES, tau=x)),
    ("disperse", "word", "reduction", lambda x: memcore.disperse(QUERIES, reduction=x)),
    ("LSH", "whole", "dim", memcore.LSH),
    ("LSH", "whole", "n_bits", lsh("n_bits")),
    ("LSH", "whole", "n_tables", lsh("n_tables")),
    ("LSH", "word", "kind", lsh("kind")),
    ("LSH", "word", "planes", lsh("planes")),
    ("probes", "whole", "n_probes", lambda x: LSH.probes(QUERIES, x)),
    ("collision", "whole", "min_hits", lambda x: LSH.collision(0.5, x)),
    ("BucketTable", "word", "evict", table("evict")),
    ("BucketTable", "word", "device", table("device")),
    ("BucketTable", "whole", "n_slots", lambda x: memcore.BucketTable(2, 1, x)),
    ("SketchTable", "word", "dtype", sketch("dtype")),
    ("SketchTable", "whole", "width", lambda x: memcore.SketchTable(2, 1, x)),
    ("scale", "number", "factor", memcore.SketchTable(2, 1, 2).scale),
    ("search", "whole", "min_hits", lambda x: TABLE.search([[0]], min_hits=x)),
    ("Codebook", "whole", "n_codes", lambda x: memcore.Codebook(x, 4)),
    ("Codebook", "whole", "dim", lambda x: memcore.Codebook(4, x)),
    ("Codebook", "whole", "n_levels", book("n_levels")),
    ("Codebook", "whole", "reset_quota", book("reset_quota")),
    ("Codebook", "number", "decay", book("decay")),
    ("Codebook", "number", "rate", book("rate")),
    ("Codebook", "number", "smoothing", book("smoothing")),
    ("Codebook", "number", "reset_threshold", book("reset_threshold")),
    ("Codebook", "word", "learn", book("learn")),
    ("Codebook", "word", "reset", book("reset")),
    ("Codebook", "word", "device", book("device")),
    ("to", "word", "device", BOOK.to),
    ("fit", "whole", "n_iterations", lambda x: BOOK.fit(KEYS, n_iterations=x)),
    ("unpack", "whole", "n", lambda x: BOOK.unpack(BOOK.pack(CODES), x)),
    ("search", "word", "metric", lambda x: BOOK.search(QUERIES, CODES, metric=x)),
    ("start_from", "number", "usage", lambda x: BOOK.start_from(BOOK.codewords, x)),
    ("update", "word", "exchange", lambda x: BOOK.update(QUERIES, exchange=x)),
    ("OuterMemory", "whole", "dim", lambda x: memcore.OuterMemory(x, 4)),
    ("OuterMemory", "whole", "value_dim", lambda x: memcore.OuterMemory(4, x)),
    ("OuterMemory", "number", "decay", lambda x: memcore.OuterMemory(4, 4, decay=x)),
    ("OuterMemory", "word", "rule", lambda x: memcore.OuterMemory(4, 4, x)),
    ("Gate", "number", "threshold", memcore.Gate),
    ("Gate", "number", "z", lambda x: memcore.Gate(z=x)),
    ("Gate", "number", "rate", gate("rate")),
    ("Gate", "number", "clip", gate("clip")),
    ("Gate", "whole", "n_warmup", gate("n_warmup")),
    ("Gate", "word", "metric", gate("metric")),
    ("load_state_dict", "mapping", "state", memcore.Gate(0.5).load_state_dict),
    ("Queue", "whole", "capacity", memcore.Queue),
    ("Queue", "whole", "n_groups", queue("n_groups")),
    ("Queue", "word", "evict", queue("evict")),
    ("sample", "whole", "n", QUEUE.sample),
    ("sample", "word", "by", lambda x: QUEUE.sample(1, by=x)),
    ("get", "word", "name", lambda x: QUEUE.get([0], x)),
    ("Arena", "whole", "dim", memcore.Arena),
    ("Arena", "word", "metric", arena("metric")),
    ("Arena", "word", "dtype", arena("dtype")),
    ("Arena", "mapping", "fields", lambda x: memcore.Arena(4, fields=x)),
    ("Bank", "whole", "dim", memcore.Bank),
    ("Bank", "word", "metric", bank("metric")),
    ("new", "whole", "n", ARENA.new),
    ("fork", "whole", "n", lambda x: ARENA.fork(BANKS, x)),
    ("search", "number", "min_score", lambda x: BANK.search(QUERIES, min_score=x)),
    ("get", "word", "missing", lambda x: BANK.get([0], missing=x)),
    ("delete", "word", "missing", lambda x: BANK.delete([0], missing=x)),
    ("add", "mapping", "fields", lambda x: BANK.add(QUERIES, fields=x)),
    ("add", "mapping", "fields", lambda x: memcore.Bank().add(QUERIES, fields=x)),
]
HUGE = [
    ("search", "k", lambda x: memcore.search(QUERIES, KEYS, x)),
    ("search", "k", lambda x: BANK.search(QUERIES, x)),
    ("search", "k", lambda x: BOOK.search(QUERIES, CODES, x)),
    ("topk", "k", lambda x: memcore.topk(QUERIES, x)),
    ("attend", "k", lambda x: attend(k=x)),
    ("attend", "k", lambda x: attend(k=x, bias=np.ones(6))),
    ("attend", "k", lambda x: BANK.attend(QUERIES, x, beta=1.0)),
    ("new", "n", ARENA.new),
    ("fork", "n", lambda x: ARENA.fork(BANKS, x)),
    ("LSH", "dim", memcore.LSH),
    ("LSH", "n_tables", lsh("n_tables")),
    ("probes", "n_probes", lambda x: WIDE.probes(QUERIES, x)),
    ("BucketTable", "n_tables", lambda x: memcore.BucketTable(2, x, 2)),
    ("SketchTable", "width", lambda x: memcore.SketchTable(2, 1, x)),
    ("Codebook", "dim", lambda x: memcore.Codebook(4, x)),
    ("Codebook", "n_levels", book("n_levels")),
    ("OuterMemory", "dim", lambda x: memcore.OuterMemory(x, 4)),
    ("Queue", "capacity", memcore.Queue),
    ("Queue", "n_groups", queue("n_groups")),
    ("sample", "n", GROUPS.sample),
]


def state():
    """What a call could have changed."""
    book, counts = BOOK.state, ARENA.count(BANKS).tolist()
    rows = BANK.ids().tolist(), BANK.fields, QUEUE.ids.tolist(), ARENA.nbytes, counts
    return *rows, book.version, book.codewords.tobytes(), memcore.threads(), memcore.isa()


def named(calls):
    """A test's name for each call."""
    names = [f"{op}-{argument}" for op, *_, argument, _ in calls]
    return [f"{name}-{names[:i].count(name)}" for i, name in enumerate(names)]


@pytest.mark.parametrize("call", CALLS, ids=named(CALLS))
def test_a_value_of_another_kind(call):
    op, kind, argument, run = call
    before = state()
    for value in KINDS[kind]:
        with pytest.raises(TYPED) as caught:
            run(value)
        words = str(caught.value)
        assert re.fullmatch(rf"{op}: {argument} (is|has) .{{1,110}}, should .+", words), words
    assert state() == before


@pytest.mark.parametrize("call", HUGE, ids=named(HUGE))
def test_more_than_any_memory(call):
    op, argument, run = call
    before = state()
    for value in (2**48, 2**62, 2**70):
        with pytest.raises((MemoryError, *TYPED)) as caught:
            run(value)
        words = str(caught.value)
        assert re.match(rf"{op}: {argument} (is {value}|has \w+),? ", words), words
    assert state() == before
