"""The bench of the GPU where there is none: cases by the interpreter, rows, picture, refusal."""

import json
from dataclasses import replace

import numpy as np
import pytest

from memcore.bench import gpu
from memcore.bench.__main__ import main
from memcore.bench.case import WrongAnswerError
from memcore.bench.gpu_cases import every

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMITS = {"read": 2e12, "bf16": 5e14, "int8": 1e15}
TINY = every(is_tiny=True)


@pytest.mark.parametrize("case", TINY, ids=[case.name for case in TINY])
def test_every_case_gives_the_right_answer_and_so_do_its_rivals(case, by_kernels):
    given = gpu.checked(case, 0, by_kernels)
    for rival in case.rivals.values():
        assert rival(**given) is not None
    assert case.n_bytes > 0


def test_a_wrong_answer_is_refused():
    case = TINY[0]
    ours = case.ours

    def swapped(**given):
        hits = ours(**given)
        return hits.scores, hits.ids.flip(1)

    with pytest.raises(WrongAnswerError, match="ids is not the definition's"):
        gpu.checked(replace(case, ours=swapped), 0, DEVICE)


def test_full_cases_have_shapes_of_their_own():
    names = [case.name for case in every()]
    assert "search/4096 x 1048576 x 128, k=32" in names
    assert "search_ragged/8192 banks x 282 x 128, k=5" in names
    assert len(set(names)) == len(names)


def test_rows_hold_percentiles_and_the_share_of_the_limit(tmp_path):
    case = replace(TINY[0], n_bytes=2e9, operations=1e9)
    row = gpu.row_of(case, "memcore", [1.0, 2.0, 3.0, 4.0, 5.0], LIMITS)
    assert (row.p20_ms, row.p50_ms, row.p80_ms, row.n_runs) == (1.8, 3.0, 4.2, 5)
    # 2 GB at 2 TB/s are a millisecond.
    assert row.share == pytest.approx(1 / 3)
    busy = gpu.row_of(replace(case, operations=6e12), "memcore", [12.0], LIMITS)
    assert busy.share == pytest.approx(0.5)
    path = tmp_path / "rows" / "gpu.jsonl"
    gpu.write([row], path)
    gpu.write([busy], path)
    read = [json.loads(each) for each in path.read_text().splitlines()]
    assert [each["p50_ms"] for each in read] == [3.0, 12.0]
    assert read[0]["limits"] == LIMITS
    assert "33 % of the limit" in gpu.line(row)
    assert len(row.source) == 16


def test_the_roofline_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    row = gpu.row_of(TINY[0], "memcore", [1.0], LIMITS)
    path = gpu.roofline([row, replace(row, operations=0.0)], tmp_path / "roofline.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert main(["--device", "cuda", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told == "bench: there is no CUDA device, should be one for --device cuda\n"
    assert list(tmp_path.iterdir()) == []


def test_samples_are_taken_in_turns(monkeypatch):
    class Event:
        def __init__(self, enable_timing):
            self.at = None

        def record(self):
            self.at = len(seen)

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return float(400 * (other.at - self.at))

    seen = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    samples = gpu.timed([lambda: seen.append(0), lambda: seen.append(1)])
    assert samples == [400.0] * 5
    assert seen == [0, 1, 0, 0, 1, 0, 1, 0]
    assert np.median(samples) == 400
