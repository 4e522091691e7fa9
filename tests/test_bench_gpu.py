"""The bench of the GPU where there is none: its stages, cases by the interpreter, rows, picture."""

import importlib.util
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memcore.bench import gpu, gpu_rows, gpu_worker
from memcore.bench.__main__ import main
from memcore.bench.case import WrongAnswerError
from memcore.bench.gpu_case import normal
from memcore.bench.gpu_cases import every

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMITS = {"read": 2e12, "bytes": 2e12, "bf16": 5e14, "int8": 1e15}
TINY = every(is_tiny=True)
STAND_IN = Path(__file__).with_name("gpu_stand_in.py")

on_host = pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")


@pytest.mark.parametrize("case", TINY, ids=[case.name for case in TINY])
def test_every_case_gives_the_right_answer_and_so_do_its_rivals(case, by_kernels):
    given = gpu_worker.checked(case, 0, by_kernels)
    for rival in case.rivals.values():
        assert rival(**given) is not None
    assert case.n_bytes > 0


def test_a_wrong_answer_is_refused():
    with pytest.raises(WrongAnswerError, match="ids is not the definition's"):
        gpu_worker.checked(wrong(TINY[0]), 0, DEVICE)


def wrong(case):
    ours = case.ours

    def swapped(**given):
        hits = ours(**given)
        return hits.scores, hits.ids.flip(1)

    return replace(case, ours=swapped)


def test_full_cases_have_shapes_of_their_own():
    names = [case.name for case in every()]
    assert "search/4096 x 1048576 x 128, k=32" in names
    assert "search_ragged/8192 banks x 282 x 128, k=5" in names
    assert len(set(names)) == len(names)


def test_inputs_do_not_depend_on_the_threads_that_draw_them():
    first, second = (normal(np.random.default_rng(3), 7, 11) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert len(np.unique(first)) == first.size
    assert abs(normal(np.random.default_rng(4), 10000).std() - 1) < 0.05


def test_rows_hold_percentiles_and_the_share_of_the_limit(tmp_path):
    case = replace(TINY[0], n_bytes=2e9, operations=1e9)
    row = gpu_rows.row_of(case, "memcore", [1.0, 2.0, 3.0, 4.0, 5.0], LIMITS)
    assert (row.p20_ms, row.p50_ms, row.p80_ms, row.n_runs) == (1.8, 3.0, 4.2, 5)
    # 2 GB at 2 TB/s are a millisecond.
    assert row.share == pytest.approx(1 / 3)
    busy = gpu_rows.row_of(replace(case, operations=6e12), "memcore", [12.0], LIMITS)
    assert busy.share == pytest.approx(0.5)
    # A limit that could not be measured.
    assert math.isnan(gpu_rows.row_of(case, "memcore", [1.0], {"bytes": 2e12}).share)
    path = tmp_path / "rows" / "gpu.jsonl"
    assert gpu_rows.read(path) == []
    gpu_rows.write([row], path)
    gpu_rows.write([busy], path)
    assert gpu_rows.read(path) == [row, busy]
    assert "33 % of the limit" in gpu_rows.line(row)
    assert len(row.source) == 16


def test_the_roofline_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    row = gpu_rows.row_of(TINY[0], "memcore", [1.0], LIMITS)
    rows = [row, replace(row, operations=0.0), replace(row, limits={})]
    for some in (rows, rows[:2]):
        path = gpu_rows.roofline(some, tmp_path / "roofline.png")
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@on_host
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert main(["--device", "cuda", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told == "bench: there is no CUDA device, should be one for --device cuda\n"
    assert list(tmp_path.iterdir()) == []


def test_words_of_the_command_line(tmp_path, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(gpu, "main", lambda *words: given.append(words) or 0)
    out = tmp_path / "a.jsonl"
    assert main(["--device", "cuda", "--out", str(out)]) == 0
    words = ["--only", "time,tests", "--seconds", "90", "arena", "bank"]
    assert main(["--device", "cuda", "--out", str(out), *words]) == 0
    assert given == [
        (out, [], list(gpu.STAGES), gpu.BUDGET_S),
        (out, ["arena", "bank"], ["time", "tests"], 90.0),
    ]
    with pytest.raises(SystemExit):
        main(["--device", "cuda", "--only", "test"])
    assert "only has 'test', should be of check, time, tests, sanitizer" in capsys.readouterr().err


def test_samples_are_taken_after_the_cache_is_written_over(monkeypatch):
    class Counted:
        def __init__(self, enable_timing):
            self.at = None

        def record(self):
            self.at = len(seen)

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return float(other.at - self.at)

    class Buffer:
        def zero_(self):
            seen.append("flush")

    seen = []
    monkeypatch.setattr(torch.cuda, "Event", Counted)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(gpu_worker, "_BUDGET_S", 0.0)
    samples = gpu_worker.timed(lambda: seen.append("run"), Buffer())
    assert samples == [1.0] * 5
    assert seen == ["run"] * 3 + ["flush", "run"] * 5


def test_what_fails_or_hangs_takes_no_other_down(capfd):
    def fails():
        raise ValueError("no such thing")

    def answers_wrong():
        raise WrongAnswerError("ids is not the definition's")

    tasks = {
        "dies": lambda: os.kill(os.getpid(), 9),
        "hangs": lambda: time.sleep(60),
        "fails": fails,
        "wrong": answers_wrong,
        "last": lambda: None,
    }
    begin = time.monotonic()
    failed = gpu_worker._each(tasks, 2, 5.0)
    assert time.monotonic() - begin < 50
    assert sorted(failed) == ["dies", "fails", "hangs", "wrong"]
    told = capfd.readouterr().out
    for words in (
        "failed: dies: the process ended with -9\n",
        "failed: hangs: not done after 5 s\n",
        "failed: fails: ValueError: no such thing\n",
        "failed: wrong: ids is not the definition's\n",
        "right: last (",
    ):
        assert words in told
    del tasks["dies"], tasks["hangs"]
    # In this process, as a sanitizer wants it.
    assert gpu_worker._each(tasks, 0, 2.0) == ["fails", "wrong"]


class Fitted(gpu_worker.Request):
    """A request to the worker that stands in."""

    def words(self):
        return [sys.executable, str(STAND_IN), *super().words()[3:]]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of a few tiny cases by the worker that stands in, with a sanitizer that does too."""
    monkeypatch.setattr(gpu, "Request", Fitted)
    few = [case for case in TINY if case.op in ("topk", "nce")]
    monkeypatch.setattr(gpu, "every", lambda is_tiny: few)
    tool = tmp_path / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    # It finds races only.
    tool.write_text('#!/bin/bash\necho "$2 of ${@: -2:1}"\ntest $2 = memcheck\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    rows = tmp_path / "out" / "gpu.jsonl"
    return gpu._Run(rows, [], time.monotonic() + 1000, device="cpu", is_tiny=True)


@on_host
@pytest.mark.slow
def test_all_stages(run, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "test_words", lambda: [sys.executable, "-c", "print('4 passed')"])
    assert gpu.go(run, list(gpu.STAGES)) == 1
    told = capsys.readouterr().out
    names = [case.name for case in gpu.every(is_tiny=True)]
    # Checked, timed, and compiled for the sanitizer.
    assert sorted(run.right) == sorted(["limits", *names, *names, *names])
    rows = gpu_rows.read(run.rows)
    assert [row.case for row in rows if row.engine == "memcore"] == names
    assert [row.engine for row in rows if row.op == "topk"] == ["memcore", "torch.topk"]
    assert all(row.limits["bytes"] > 0 and row.p50_ms > 0 for row in rows)
    for words in ("4 passed", f"memcheck of {STAND_IN}", f"racecheck of {STAND_IN}", "time: "):
        assert words in told
    is_drawn = importlib.util.find_spec("matplotlib") is not None
    assert run.rows.with_suffix(".png").exists() == is_drawn
    assert told.endswith(f"failed: racecheck: see {run.rows.with_suffix('.log')}\n")
    assert run.rows.with_suffix(".log").read_text() == told
    # What has rows is not timed again.
    run.failures.clear()
    assert gpu.go(run, ["time"]) == 0
    assert f"time: {len(names)} cases have rows in" in capsys.readouterr().out
    assert gpu_rows.read(run.rows) == rows


@on_host
def test_what_goes_wrong_is_told_at_the_end(run, monkeypatch, capsys):
    script = "print('failed: a case: ids'); import sys; sys.exit(5)"
    monkeypatch.setattr(Fitted, "words", lambda self: [sys.executable, "-c", script])
    monkeypatch.setattr(gpu, "test_words", lambda: [sys.executable, "-c", "raise SystemExit(1)"])
    assert gpu.go(run, ["check", "tests"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "failed: a case: ids",
        "failed: the worker ended with 5",
        "failed: tests: exit code 1",
    ]
    # A stage that takes too long is ended, with what it started.
    hanging = "import subprocess; subprocess.run(['sleep', '60'])"
    monkeypatch.setattr(gpu, "test_words", lambda: [sys.executable, "-c", hanging])
    monkeypatch.setitem(gpu.STAGES, "tests", 5.5)
    begin = time.monotonic()
    gpu.run_tests(run, 1.0)
    assert time.monotonic() - begin < 20
    assert "ended after 1 s" in capsys.readouterr().out
    run.end_s = time.monotonic()
    gpu.go(run, ["check"])
    assert "check: left out, the time is over\n" in capsys.readouterr().out


def test_words_of_the_tests():
    words = gpu.test_words()
    files = [Path(each) for each in words if each.endswith(".py") and not each.startswith("-")]
    assert all(each.exists() for each in files)
    names = {each.name for each in files}
    assert {"test_device.py", "test_device_coded.py", "test_index_device.py"} <= names
    here = Path(__file__).parent
    assert str(here / "kernels") in words
    # Whoever launches on a device is among them.
    for path in [*here.glob("bank/*.py"), *here.glob("index/*.py")]:
        if 'device="cuda"' in path.read_text():
            assert path in files, path
