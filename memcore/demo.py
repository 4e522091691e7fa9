"""`memcore demo`: store text, find it, change it, fork it; then search 4,096 banks in one call."""

import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import memcore
from memcore.console import Console
from memcore.errors import InputError
from memcore.text import HashedEmbedder

CONVERSATION = Path(__file__).parent / "data" / "conversation.jsonl"

_N_BANKS = 4096
_DIM = 128
_K = 5
_N_ROUNDS = 5
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True)
class Memory:
    """One line of a conversation, or of a file."""

    text: str
    speaker: str | None = None
    time: str | None = None

    @property
    def full_text(self) -> str:
        """What is embedded: who said it can be asked for, too."""
        return f"{self.speaker}: {self.text}" if self.speaker else self.text


@dataclass(frozen=True)
class Story:
    """What the demo does with the memories.

    Attributes:
        questions: with the condition that rows must meet, or None.
        change: a question, and what its best memory shall read from then on.
        what_if: a question, and what its best memory shall read in a fork; None deletes it there.
    """

    questions: Sequence[tuple[str, dict[str, Any] | None]]
    change: tuple[str, str]
    what_if: tuple[str, str | None]


_CONVERSATION_STORY = Story(
    questions=[
        ("Which nuts is Priya allergic to?", None),
        ("What is the door code?", None),
        ("What about the workshop?", {"speaker": "Jonas"}),
    ],
    change=(
        "When is the pilot's exam?",
        "The exam for my pilot's licence has moved to the 3rd of July, still in Cascais.",
    ),
    what_if=(
        "Does Mira go to Bergen or stay in Porto?",
        "I said yes to Bergen! Pixel and I leave Porto in September.",
    ),
)


def run(files: Sequence[str], questions: Sequence[str]) -> int:
    """Run the demo and print what happens.

    Args:
        files: text files, one memory a line, or .jsonl with a `text` key; none for the conversation
            that is shipped.
        questions: to ask in the place of the demo's own.

    Returns:
        The exit code: 1 if NumPy found other ids.

    Raises:
        InputError: a file that is not such text, or holds none.
        OSError: a file that cannot be read.
    """
    console = Console()
    memories = [memory for file in files or [str(CONVERSATION)] for memory in read(Path(file))]
    if not memories:
        raise InputError("demo: the files have no text, should have at least one line")
    story = _suggest(memories) if files else _CONVERSATION_STORY
    if questions:
        own = [(question, None) for question in questions]
        first = questions[0]
        what_if = (first, None) if files else story.what_if
        story = Story(own, (first, story.change[1]) if files else story.change, what_if)

    console.line(("memcore", "bold"), f" {memcore.__version__}, {memcore.isa()}, ", _threads())
    bank = _store(console, memories)
    console.title("Ask")
    for question, where in story.questions:
        _ask(console, bank, question, where)
    _change(console, bank, story)
    _fork(console, bank, story)
    return _race(console)


def read(path: Path) -> list[Memory]:
    """The memories of one file.

    Raises:
        InputError: it is not UTF-8, or a line of a .jsonl file is no object with a `text`.
        OSError: it cannot be read.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"demo: {path} is not text at byte {error.start}, should be UTF-8"
        ) from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if path.suffix.lower() != ".jsonl":
        return [Memory(line.strip()) for _, line in numbered]
    return [_parse(f"{path} line {number}", line) for number, line in numbered]


def _parse(place: str, line: str) -> Memory:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"demo: {place} is not JSON, should be one object a line") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise InputError(f"demo: {place} has no text, should be an object with a `text` string")
    speaker, moment = (
        value if isinstance(value := entry.get(key), str) else None for key in ("speaker", "time")
    )
    return Memory(entry["text"], speaker, moment)


def _suggest(memories: Sequence[Memory]) -> Story:
    """Questions from the rarest words of lines here and there."""
    words = [list(dict.fromkeys(re.findall(r"\w{4,}", m.text[:1000].lower()))) for m in memories]
    n_lines = Counter(word for line in words for word in line)
    rich_lines = [line for line in words if len(line) >= 3]
    questions = []
    for part in range(min(3, len(rich_lines))):
        line = rich_lines[(2 * part + 1) * len(rich_lines) // 6]
        rarest = sorted(line, key=lambda word: (n_lines[word], -len(word)))[:3]
        questions.append(" ".join(word for word in line if word in rarest))
    questions = list(dict.fromkeys(questions)) or [memories[0].text[:40]]
    first = questions[0]
    changed = f"{first}: this memory was changed by the demo."
    return Story([(question, None) for question in questions], (first, changed), (first, None))


def _store(console: Console, memories: Sequence[Memory]) -> Any:
    console.title("Store")
    bank = memcore.Bank(embed=HashedEmbedder(), fields={"speaker": str, "time": str})
    step = 4096
    begin = time.perf_counter()
    with console.progress("storing", -(-len(memories) // step)) as advance:
        for i in range(0, len(memories), step):
            part = memories[i : i + step]
            bank.add(
                texts=[memory.full_text for memory in part],
                payloads=part,
                fields={
                    "speaker": [memory.speaker for memory in part],
                    "time": [memory.time for memory in part],
                },
            )
            advance()
    took = _duration(time.perf_counter() - begin)
    console.line(f"{len(bank):,} memories in {took}, embedded and stored.")
    console.line("The embedder is lexical: it knows words and spellings, not meanings.")
    return bank


def _ask(console: Console, bank: Any, question: str, where: dict[str, Any] | None = None) -> None:
    begin = time.perf_counter()
    hits = bank.search(question, k=3, where=where)
    took = _duration(time.perf_counter() - begin)
    told = "" if where is None else f" only {', '.join(f'{k} {v}' for k, v in where.items())};"
    console.line(("? ", "bold yellow"), (_shown(question), "bold"), (f" {told} {took}", "dim"))
    for line in _answers(bank, hits):
        console.line("  ", line)


def _answers(bank: Any, hits: Any) -> list[str]:
    found = [
        f"{score:.3f}  {_told(memory)}"
        for score, row_id, memory in zip(
            hits.scores[0], hits.ids[0], bank.rows(hits)[0], strict=True
        )
        if row_id >= 0
    ]
    return found or ["(nothing)"]


def _best(bank: Any, question: str) -> tuple[int, Memory]:
    hits = bank.search(question, k=1)
    return int(hits.ids[0, 0]), bank.rows(hits)[0][0]


def _rewrite(bank: Any, row_id: int, memory: Memory, text: str) -> None:
    new = Memory(text, memory.speaker, memory.time)
    bank.update([row_id], texts=[new.full_text], payloads=[new])


def _change(console: Console, bank: Any, story: Story) -> None:
    console.title("Change")
    question, text = story.change
    _ask(console, bank, question)
    row_id, memory = _best(bank, question)
    console.line(("~ ", "bold yellow"), f"memory {row_id} shall read: {_shown(text)}")
    _rewrite(bank, row_id, memory, text)
    _ask(console, bank, question)


def _fork(console: Console, bank: Any, story: Story) -> None:
    console.title("Fork")
    question, text = story.what_if
    row_id, memory = _best(bank, question)
    begin = time.perf_counter()
    fork = bank.fork()
    took = _duration(time.perf_counter() - begin)
    console.line(f"A fork of {len(fork):,} memories took {took}; pages are copied when written.")
    if text is None:
        fork.delete([row_id])
        console.line(("~ ", "bold yellow"), f"in the fork, memory {row_id} is deleted")
    else:
        _rewrite(fork, row_id, memory, text)
        console.line(("~ ", "bold yellow"), f"in the fork, memory {row_id} reads: {_shown(text)}")
    console.line(("? ", "bold yellow"), (_shown(question), "bold"))
    sides = [("the bank", bank), ("its fork", fork)]
    rows = [[side, _answers(b, b.search(question, k=1))[0]] for side, b in sides]
    console.table(["asked", "answer"], rows)


def _race(console: Console) -> int:
    """Search 4,096 banks of different sizes in one call, and in a NumPy loop; compare and time."""
    console.title(f"{_N_BANKS:,} banks, one question each")
    rng = np.random.default_rng(0)
    sizes = rng.integers(16, 113, _N_BANKS)
    ends = np.cumsum(sizes)
    keys = np.empty((int(ends[-1]), _DIM), np.float32)
    arena = memcore.Arena(dim=_DIM, metric="dot")
    banks = arena.new(_N_BANKS)
    step = 256
    with console.progress("filling the banks", _N_BANKS // step) as advance:
        for i in range(0, _N_BANKS, step):
            begin = ends[i] - sizes[i]
            rows = keys[begin : ends[i + step - 1]]
            rows[:] = _exact_normal(rng, rows.shape)
            arena.add(np.repeat(banks[i : i + step], sizes[i : i + step]), rows)
            advance()
    queries = _exact_normal(rng, (_N_BANKS, _DIM))
    parts = np.split(keys, ends[:-1])

    # The first round of each is not timed.
    ours, theirs = [], []
    with console.progress("timing", _N_ROUNDS + 1) as advance:
        for _ in range(_N_ROUNDS + 1):
            begin = time.perf_counter()
            found = arena.search(banks, queries, k=_K).ids
            middle = time.perf_counter()
            expected = _numpy_loop(parts, queries)
            ours.append(middle - begin)
            theirs.append(time.perf_counter() - middle)
            advance()
    our_time, their_time = (statistics.median(times[1:]) for times in (ours, theirs))
    n_equal = int((found == expected).all(axis=1).sum())
    console.line(f"{ends[-1]:,} rows of {_DIM} float32, the {_K} best of each bank, {_threads()}")
    console.table(
        ["", ">time", ">per bank"],
        [
            ["memcore, one call", _duration(our_time), _duration(our_time / _N_BANKS)],
            ["NumPy, a loop", _duration(their_time), _duration(their_time / _N_BANKS)],
        ],
    )
    console.line(
        (f"{their_time / our_time:.1f} times as fast", "bold green"),
        f", the same ids in {n_equal:,} of {_N_BANKS:,} banks",
    )
    return 0 if n_equal == _N_BANKS else 1


def _exact_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Normal numbers in steps of 1/64: a float32 sum of 128 products is exact in any order."""
    numbers = rng.standard_normal(shape, dtype=np.float32)
    steps: NDArray[np.float32] = np.rint(numbers * np.float32(64), dtype=np.float32)
    steps /= np.float32(64)
    return steps


def _numpy_loop(
    parts: Sequence[NDArray[np.float32]], queries: NDArray[np.float32]
) -> NDArray[np.int64]:
    ids = np.empty((len(parts), _K), np.int64)
    for i, (keys, query) in enumerate(zip(parts, queries, strict=True)):
        ids[i] = np.argsort(-(keys @ query), kind="stable")[:_K]
    return ids


def _threads() -> str:
    n = memcore.threads()
    return f"{n} thread" if n == 1 else f"{n} threads"


def _told(memory: Memory) -> str:
    who = ", ".join(filter(None, (memory.time, memory.speaker)))
    return f"{who}: {_shown(memory.text)}" if who else _shown(memory.text)


def _shown(text: str) -> str:
    """One short line that a terminal can show whatever the text holds."""
    start = text[: 2 * _SHOWN_CHARACTERS]
    line = " ".join("".join(c if c.isprintable() else " " for c in start).split())
    is_cut = len(line) > _SHOWN_CHARACTERS or len(text) > len(start)
    return line[: _SHOWN_CHARACTERS - 1].rstrip() + "…" if is_cut else line


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
