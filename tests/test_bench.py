"""The bench on tiny cases: rows, the gate, the interleaving; nothing here judges a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import memcore
from memcore.bench import cases, gate, rows, runner, script, timing
from memcore.bench.__main__ import main
from memcore.bench.case import WrongAnswerError
from memcore.bench.cases import corpus
from memcore.bench.cases.banks import Banks
from memcore.bench.cases.mutation import Mutation, first_step
from memcore.bench.cases.search import Search
from memcore.bench.machine import Limits
from memcore.bench.rivals.mutation import Turns, numpy_batched, numpy_swap_remove
from memcore.bench.rivals.search import numpy_product
from memcore.bench.timing import Step

LIMITS = Limits(1, *[1e10] * 7, l3_bytes=1 << 20, isa="none")


@pytest.fixture
def where() -> Iterator[runner.Setting]:
    marks = {"cpu": "a processor", "commit": "abc", "date": "2026-01-01"}
    return runner.Setting(LIMITS, [], 0.02, False, marks, {"numpy": np.__version__})


@dataclass(frozen=True, kw_only=True)
class OneEngine(Search):
    """A search with a single engine, which a test may spoil."""

    spoil: Callable[[memcore.Hits], memcore.Hits] = lambda hits: hits

    def engines(self) -> dict[str, Any]:
        def make(case: Any, inputs: dict[str, Any], threads: int) -> Step:
            queries, keys = inputs["queries"], inputs["keys"]
            return Step(
                lambda: self.spoil(memcore.search(queries, keys, case.k, metric=case.metric))
            )

        return {"ours": make}


def swap_ids(hits: memcore.Hits) -> memcore.Hits:
    ids = hits.ids.copy()
    ids[0, [0, 1]] = ids[0, [1, 0]]
    return memcore.Hits(hits.scores, ids)


def one_ulp_up(hits: memcore.Hits) -> memcore.Hits:
    return memcore.Hits(np.nextafter(hits.scores, np.float32(np.inf)), hits.ids)


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
def test_a_case_gives_a_row_with_times_and_shares(where: runner.Setting, metric: str) -> None:
    case = OneEngine(n=300, dim=20, n_queries=4, metric=metric)
    (row,) = runner.run(case, where)
    assert where.failures == []
    assert (row.op, row.engine, row.metric, row.k) == ("search", "ours", metric, 10)
    assert row.shape == {"n": 300, "dim": 20, "n_queries": 4}
    assert row.isa == memcore.isa()
    assert row.p20_ms is not None
    assert row.p50_ms is not None
    assert row.p80_ms is not None
    assert 0 < row.p20_ms <= row.p50_ms <= row.p80_ms
    # 2 * 4 * 300 * 20 operations at 1e10 a second are the roofline of this made-up machine.
    assert row.shares["float32 roofline"] == pytest.approx(4.8e-6 / (row.p50_ms / 1e3))


@pytest.mark.parametrize("spoil", [swap_ids, one_ulp_up])
def test_a_wrong_answer_gets_no_time(where: runner.Setting, spoil: Any) -> None:
    case = OneEngine(n=300, dim=20, n_queries=4, spoil=spoil)
    assert runner.run(case, where) == []
    assert len(where.failures) == 1
    assert "ours: query" in where.failures[0]


def test_a_wrong_answer_is_an_exit_code(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(spoil: Any) -> int:
        case = OneEngine(n=300, dim=20, n_queries=4, spoil=spoil)
        monkeypatch.setattr(cases, "sweep", lambda level: [case])
        words = ["--quick", "--rivals", "none", "--seconds", "0.02", "--out", str(tmp_path)]
        return main(words)

    monkeypatch.setattr("memcore.bench.machine.measure", lambda *_, **__: LIMITS)
    assert run(lambda hits: hits) == 0
    (file,) = tmp_path.glob("*.jsonl")
    assert [row.engine for row in rows.read(file)] == ["ours"]
    assert run(swap_ids) == 1
    assert "not timed" in capsys.readouterr().out
    # No row was added for the wrong one.
    assert len(rows.read(file)) == 1


def test_bad_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--threads", "0"], ["no such case"], ["--rivals", "abacus"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert "bench: " in capsys.readouterr().err


def test_every_case_has_a_name_of_its_own() -> None:
    for level in ("quick", "default", "full"):
        names = [case.name for case in cases.sweep(level)]
        assert len(names) == len(set(names))


def test_inputs_depend_on_the_seed_alone() -> None:
    for case in (Search(n=200, dim=8, n_queries=3), Banks(n_banks=9, mean=20, sizes="lognormal")):
        first, again, other = case.inputs(), case.inputs(), replace(case, seed=1).inputs()
        for name, array in first.items():
            assert (array == again[name]).all()
        assert (first["queries"] != other["queries"]).any()


def test_a_rival_is_held_to_the_true_scores() -> None:
    case = Search(n=500, dim=16, n_queries=6)
    inputs = case.inputs()
    truth = gate.float32_scan(inputs["queries"], inputs["keys"], 10, "dot")[0]
    step = numpy_product(case, inputs, 1)
    gate.check_rival(step.answer(step.run()), truth)
    wrong = truth.copy()
    wrong[3, 9] -= 0.01
    with pytest.raises(WrongAnswerError, match="rank 9 of query 3"):
        gate.check_rival(wrong, truth)


@pytest.mark.parametrize("rival", [numpy_swap_remove, numpy_batched])
def test_the_mutation_script_means_the_same_by_slot_position_and_id(rival: Any) -> None:
    case = Mutation(n_banks=7, n_rows=24, dim=16)
    inputs = case.inputs()
    step = rival(case, inputs, 1)
    step.setup()
    scores = step.run()
    kept, ids = first_step(inputs)
    live = np.where((ids >= 0)[:, :, None], kept, np.nan)
    truth = -np.sort(-np.einsum("bsd,bd->bs", live, inputs["queries"]), axis=1)[:, :5]
    np.testing.assert_allclose(scores, truth, rtol=1e-5)


def test_the_mutation_script_keeps_every_bank_at_its_size() -> None:
    class Oracle:
        """Banks as dicts from id to row."""

        def __init__(self, vectors: Any) -> None:
            self.banks = [dict(enumerate(rows)) for rows in vectors]

        def append(self, change: script.Change) -> None:
            for bank, ids in zip(self.banks, change.ids.tolist(), strict=True):
                assert not set(ids) & set(bank)
                bank.update(dict.fromkeys(ids))

        def update(self, change: script.Change) -> None:
            for bank, ids in zip(self.banks, change.ids.tolist(), strict=True):
                assert set(ids) <= set(bank)

        def delete(self, change: script.Change) -> None:
            for bank, ids in zip(self.banks, change.ids.tolist(), strict=True):
                for one in ids:
                    del bank[one]

        def search(self) -> list[int]:
            return [len(bank) for bank in self.banks]

    inputs = Mutation(n_banks=5, n_rows=30, dim=4).inputs()
    turns = Turns(inputs, Oracle(inputs["vectors"]))
    for _ in range(20):
        turns.setup()
        # One appended, 5 % of 30 rounded up deleted.
        assert turns.run() == [29] * 5


def test_turns_are_interleaved_and_the_slow_are_let_go() -> None:
    calls: list[str] = []

    class Fake:
        def __init__(self, name: str, seconds: float) -> None:
            self.name, self.seconds = name, seconds

        def time(self, calls_in_a_row: int = 1) -> float:
            calls.append(self.name)
            return self.seconds

    fakes = {
        "ours": Fake("ours", 0.010),
        "a@x": Fake("a@x", 0.002),
        "a@y": Fake("a@y", 0.003),
        "b@x": Fake("b@x", 0.009),
    }
    samples, _ = timing.measure(
        fakes,
        budget_s=0.0,
        max_rounds=3,
        ours=["ours"],
        job_of=lambda name: name.partition("@")[0],
    )
    # a@y is the slower variant of a; b is more than four times slower than the best rival.
    assert set(samples) == {"ours", "a@x", "b@x"}
    assert len(samples["b@x"].warm) == 1
    assert samples["a@x"].median() == 0.002
    after_the_first_round = calls[12:]
    assert set(after_the_first_round) == {"ours", "a@x"}
    turns = after_the_first_round[::2]
    # Each round has a turn of everybody.
    assert all(len(set(turns[i : i + 2])) == 2 for i in range(0, len(turns), 2))


def test_rows_come_back_as_they_were_written(where: runner.Setting, tmp_path: Any) -> None:
    found = runner.run(OneEngine(n=100, dim=8, n_queries=1), where)
    rows.write(found, tmp_path / "some.jsonl")
    rows.write(found, tmp_path / "some.jsonl")
    assert rows.read(tmp_path / "some.jsonl") == found * 2


def test_texts_are_searched_where_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MEMCORE_TEXTS", raising=False)
    assert corpus.sweep("default") == []
    texts = ["my card was lost", "the exchange rate", "how do I top up", "lost my card abroad"]
    for name in ("corpus", "queries"):
        lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("MEMCORE_TEXTS", str(tmp_path))
    case = corpus.sweep("default")[0]
    assert case.name == f"search/texts/{tmp_path.name}/4 x 512/Q=1"
    inputs = case.inputs()
    assert inputs["keys"].shape == (4, 512)
    assert inputs["queries"].shape == (1, 512)
    hits = case.engines()["memcore Bank"](case, inputs, 1).run()
    assert hits.ids[0, 0] == 0
    case.check(inputs, hits)
