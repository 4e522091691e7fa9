"""The command line, as a user runs it: another process, its output, its exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest

import memcore
from memcore import cli, demo

ESCAPE = "\x1b"
# The installed program; `-m memcore` would take the source tree from the working directory.
COMMAND = [sys.executable, str(Path(sysconfig.get_path("scripts")) / "memcore")]


def start(*words, **options):
    env = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "TERM"}}
    env |= options.pop("env", {})
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=env | {"PYTHONIOENCODING": env.get("PYTHONIOENCODING", "utf-8")},
        **options,
    )


def run(*words, **options):
    """The exit code, standard output and standard error of `memcore words`."""
    process = start(*words, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def refused(*words):
    """The one sentence with which bad input is refused."""
    code, out, err = run(*words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return err.rstrip("\n")


@pytest.fixture
def arrays(tmp_path, rng):
    keys = rng.standard_normal((300, 16)).astype(np.float32)
    queries = rng.standard_normal((7, 16)).astype(np.float32)
    np.save(tmp_path / "keys.npy", keys)
    np.save(tmp_path / "queries.npy", queries)
    return keys, queries


def test_info_tells_what_runs_here():
    code, out, err = run("info")
    assert (code, err) == (0, "")
    told = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines())
    assert told["memcore"] == memcore.__version__
    assert told["numpy"] == np.__version__
    assert told["threads"] == str(memcore.threads())
    for name in memcore.isas():
        assert name in told["instruction sets"]
    assert {"engine cpu", "engine reference"} <= told.keys()


def test_version():
    assert run("--version") == (0, f"memcore {memcore.__version__}\n", "")


def test_instruction_set_of_the_environment():
    _, out, _ = run("info", env={"MEMCORE_ISA": "scalar"})
    assert "scalar (in use)" in out


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
def test_search_prints_and_writes_the_hits(tmp_path, arrays, metric):
    keys, queries = arrays
    paths = tmp_path / "keys.npy", tmp_path / "queries.npy", tmp_path / "hits.npz"
    options = ["-k", 3, "--metric", metric, "--show", 2, "--out", paths[2]]
    code, out, err = run("search", *paths[:2], *options)
    assert (code, err) == (0, "")
    hits = memcore.search(queries, keys, 3, metric=metric)
    with np.load(paths[2]) as written:
        np.testing.assert_array_equal(written["ids"], hits.ids)
        np.testing.assert_array_equal(written["scores"], hits.scores)
    header, *rows = [line.split() for line in out.splitlines()]
    assert header == ["query", "rank", "id", "score"]
    expected = [
        [str(query), str(rank + 1), str(hits.ids[query, rank]), f"{hits.scores[query, rank]:.6g}"]
        for query in range(2)
        for rank in range(3)
    ]
    assert rows[:6] == expected
    assert rows[6][:3] == ["and", "5", "more"]


def test_search_takes_one_query_and_no_keys(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(4, np.float32))
    np.save(tmp_path / "none.npy", np.empty((0, 4), np.float32))
    np.save(tmp_path / "eye.npy", np.eye(4, dtype=np.float16)[:2])
    code, out, _ = run("search", tmp_path / "eye.npy", tmp_path / "one.npy", "-k", "5")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[1:] == [["0", "1", "0", "1"], ["0", "2", "1", "1"]]
    code, out, _ = run("search", tmp_path / "none.npy", tmp_path / "one.npy")
    assert (code, out.split()) == (0, ["query", "rank", "id", "score"])


def test_search_refuses_bad_files_in_one_sentence(tmp_path, arrays):
    keys, queries = tmp_path / "keys.npy", tmp_path / "queries.npy"
    (tmp_path / "words.npy").write_text("these are words")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "cut.npy").write_bytes(keys.read_bytes()[:500])
    np.save(tmp_path / "objects.npy", np.array([{}, "x"], object))
    np.savez(tmp_path / "several.npz", a=np.eye(2))
    np.save(tmp_path / "narrow.npy", np.ones((2, 3), np.float32))
    np.save(tmp_path / "nan.npy", np.full((2, 16), np.nan, np.float32))
    assert refused("search", tmp_path / "absent.npy", queries).endswith("No such file or directory")
    assert "Is a directory" in refused("search", tmp_path, queries)
    for name in ("words.npy", "empty.npy", "cut.npy", "objects.npy", "several.npz"):
        assert "no .npy file" in refused("search", tmp_path / name, queries)
        assert "queries is in" in refused("search", keys, tmp_path / name)
    assert "dim" in refused("search", keys, tmp_path / "narrow.npy")
    assert "queries" in refused("search", keys, tmp_path / "nan.npy")
    assert "k is -1" in refused("search", keys, queries, "-k", "-1")
    assert "is no folder" in refused("search", keys, queries, "--out", tmp_path / "no" / "hits.npz")


def test_words_that_are_no_command_are_refused():
    assert refused().startswith("memcore: the following arguments are required: COMMAND")
    assert "invalid choice: 'dance'" in refused("dance")
    assert "--metric" in refused("search", "a.npy", "b.npy", "--metric", "manhattan")
    assert "-k" in refused("search", "a.npy", "b.npy", "-k", "ten")


def test_demo_tells_its_story():
    begin = time.monotonic()
    code, out, err = run("demo")
    assert (code, err) == (0, "")
    assert time.monotonic() - begin < 30
    assert ESCAPE not in out
    assert "54 memories" in out
    for found in ("allergic to hazelnuts", "The door code downstairs is 4471"):
        assert found in out
    change = out[out.index("Change") : out.index("Fork")]
    assert change.index("19th of June") < change.index("3rd of July")
    fork = out[out.index("Fork") :].splitlines()
    (bank,) = [line for line in fork if line.startswith("the bank")]
    (other,) = [line for line in fork if line.startswith("its fork")]
    assert "stay in Porto" in bank
    assert "yes to Bergen" in other
    assert re.search(r"\d times as fast, the same ids in 4,096 of 4,096 banks", out)


@pytest.fixture
def quick_demo(monkeypatch, capsys):
    """Runs the demo here, without its race."""
    monkeypatch.setattr(demo, "_race", lambda console: 0)

    def call(*words):
        code = cli.main(["demo", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_demo_of_files(tmp_path, quick_demo):
    notes = tmp_path / "notes.txt"
    notes.write_text(
        "\ufeffAna moved to Lisbon in May.\n\n  Ben is allergic to peanuts. \n", "utf-8"
    )
    lines = [{"text": "Cleo plays the violoncello.", "speaker": "Cleo", "n": 1}, {"text": ""}]
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", "utf-8")
    code, out, err = quick_demo(
        notes, tmp_path / "talk.jsonl", "--ask", "Who is allergic?", "--ask", "Who plays?"
    )
    assert (code, err) == (0, "")
    assert "4 memories" in out
    answers = {
        question: out[out.index(f"? {question}") :].splitlines()[1]
        for question in ("Who is allergic?", "Who plays?")
    }
    assert answers["Who is allergic?"].endswith("Ben is allergic to peanuts.")
    assert answers["Who plays?"].endswith("Cleo: Cleo plays the violoncello.")


@pytest.mark.parametrize("text", ["one", "\u4f60\u597d\u5417", "?!", "a\x1b[31mb \ud7ff" * 500])
def test_demo_of_a_file_of_one_line(tmp_path, quick_demo, text):
    (tmp_path / "one.txt").write_text(text, "utf-8")
    code, out, err = quick_demo(tmp_path / "one.txt")
    assert (code, err) == (0, "")
    assert "1 memories" in out
    assert "(nothing)" in out
    assert ESCAPE not in out


def test_demo_refuses_bad_files_in_one_sentence(tmp_path, quick_demo):
    contents = {
        "latin.txt": "caf\u00e9".encode("latin-1"),
        "blank.txt": b"\n  \n",
        "words.jsonl": b'{"text": "fine"}\nnot json\n',
        "list.jsonl": b'["text"]\n',
        "number.jsonl": b'{"text": 5}\n',
        "deep.jsonl": b"[" * 100_000,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    expected = {
        "latin.txt": "is not text at byte 3, should be UTF-8",
        "blank.txt": "have no text, should have at least one line",
        "words.jsonl": "line 2 is not JSON, should be one object a line",
        "list.jsonl": "line 1 has no text, should be an object",
        "number.jsonl": "line 1 has no text, should be an object",
        "deep.jsonl": "line 1 is not JSON",
        "absent.txt": "No such file or directory",
    }
    for name, words in expected.items():
        code, out, err = quick_demo(tmp_path / name)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert words in err


def test_the_race_fails_if_numpy_finds_other_ids(monkeypatch, capsys):
    def wrong(parts, queries):
        return np.zeros((len(parts), 5), np.int64)

    monkeypatch.setattr(demo, "_numpy_loop", wrong)
    monkeypatch.setattr(demo, "run", lambda files, ask: demo._race(demo.Console()))
    assert cli.main(["demo"]) == 1
    assert "the same ids in 0 of 4,096 banks" in capsys.readouterr().out


def test_the_shipped_conversation_is_whole():
    memories = demo.read(demo.CONVERSATION)
    assert len(memories) == 54
    assert {memory.speaker for memory in memories} == {"Mira", "Jonas", "Priya"}
    times = [memory.time for memory in memories]
    assert times == sorted(times)
    assert len({memory.text for memory in memories}) == 54


def test_bench_words_go_to_the_bench(monkeypatch):
    given = []

    class Bench:
        @staticmethod
        def main(argv):
            given.append(argv)
            return 3

    monkeypatch.setattr(cli, "import_module", lambda name: given.append(name) or Bench)
    assert cli.main(["bench", "--quick", "search"]) == 3
    assert given == ["memcore.bench.__main__", ["--quick", "search"]]


def test_output_in_a_narrow_encoding_and_to_a_closed_pipe():
    code, out, _ = run("demo", "--ask", "Caf\u00e9", env={"PYTHONIOENCODING": "ascii"})
    assert code == 0
    assert "Caf\\xe9" in out
    process = start("info")
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


def test_interrupt_ends_with_130(tmp_path):
    keys = np.lib.format.open_memmap(tmp_path / "keys.npy", "w+", np.float32, (200_000, 64))
    keys[:] = np.random.default_rng(0).standard_normal((64,), np.float32)
    keys.flush()
    process = start("search", tmp_path / "keys.npy", tmp_path / "keys.npy")
    maps = Path(f"/proc/{process.pid}/maps")
    while "keys.npy" not in maps.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "memcore: interrupted\n")


def test_a_terminal_gets_colour_unless_it_says_no(tmp_path):
    pty = pytest.importorskip("pty")
    pytest.importorskip("rich")

    def on_terminal(**env):
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*COMMAND, "info"],
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": "", **env},
        ) as process:
            os.close(theirs)
            said = b""
            try:
                while part := os.read(ours, 4096):
                    said += part
            except OSError:
                # Linux says so when the other side has closed.
                pass
            os.close(ours)
        assert process.returncode == 0
        return said.decode()

    assert ESCAPE in on_terminal()
    assert ESCAPE not in on_terminal(NO_COLOR="1")
    assert ESCAPE not in on_terminal(TERM="dumb")


def test_console_shows_a_plain_bar_where_there_is_no_rich(monkeypatch, capsys):
    monkeypatch.setattr("memcore.console._rich_console", lambda: None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console = demo.Console()
    with console.progress("working", 4) as advance:
        advance()
        halfway = capsys.readouterr().err
    assert halfway.endswith("working [########........................]  25 %")
    console.table(["name", ">n"], [["a", "10"], ["bcd", "9"]])
    assert capsys.readouterr().out.splitlines() == ["name   n", "a     10", "bcd    9"]
    assert Path(demo.CONVERSATION).suffix == ".jsonl"
