"""What the sanitizer of kernels must find: each fault beside the same kernel without it."""

from typing import NamedTuple

import pytest

import interpreter
import races

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

pytestmark = pytest.mark.skipif(
    interpreter.has_gpu(), reason="kernels are not interpreted; a GPU has compute-sanitizer"
)


def zeros(n, dtype=torch.int64):
    return torch.zeros(n, dtype=dtype)


def fault(what):
    return pytest.raises(Exception, match=what)


@triton.jit
def copy_kernel(from_ptr, to_ptr, n, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(to_ptr + i, tl.load(from_ptr + i, mask=i < n, other=0), mask=i < n)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, torch.float32, torch.int64])
def test_one_element_past_an_argument(dtype):
    source, target = torch.arange(40).to(dtype), zeros(40, dtype)
    copy_kernel[(2,)](source[4:24], target[:20], 20, N=16)
    assert torch.equal(target[:20], source[4:24])
    with fault("load 0 bytes before and . bytes past argument 1"):
        copy_kernel[(2,)](source[4:23], target[:20], 20, N=16)
    with fault("store 0 bytes before and . bytes past argument 2"):
        copy_kernel[(2,)](source[4:24], target[:19], 20, N=16)
    with fault("load 0 bytes before and . bytes past argument 1 of 0 bytes"):
        copy_kernel[(1,)](source[:0], target, 1, N=16)


@triton.jit
def reverse_kernel(last_ptr, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out_ptr + i, tl.load(last_ptr - i))


def test_one_element_before_an_argument():
    with fault("load 56 bytes before and 0 bytes past argument 1"):
        reverse_kernel[(1,)](torch.arange(8)[7:], zeros(8), N=8)


@triton.jit
def words_kernel(bytes_ptr, out_ptr, N: tl.constexpr):
    first = bytes_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
    tl.store(out_ptr, tl.max(tl.load(first + tl.arange(0, N)), 0))


def test_an_address_that_is_no_multiple():
    raw, out = torch.arange(8, dtype=torch.int32).view(torch.uint8), zeros(1)
    words_kernel[(1,)](raw[4:20], out, N=4)
    assert out == 4
    with fault("load of 4 bytes at an address that is no multiple"):
        words_kernel[(1,)](raw[2:18], out, N=4)


@triton.jit
def follow_kernel(place_ptr, out_ptr, N: tl.constexpr):
    first = tl.load(place_ptr).to(tl.pointer_type(tl.int64))
    tl.store(out_ptr + tl.arange(0, N), tl.load(first + tl.arange(0, N)))


def test_addresses_that_are_read():
    there, out = torch.arange(32), zeros(32)
    place = torch.tensor([there.data_ptr()])
    follow_kernel[(1,)](place, out, N=32)
    assert torch.equal(out, there)
    with fault("load of memory that nobody holds in 1 lanes"):
        follow_kernel[(1,)](place + 8, out, N=32)
    del there
    with fault("load of memory that nobody holds in 32 lanes"):
        follow_kernel[(1,)](place, out, N=32)


@triton.jit
def far_kernel(origin_ptr, out_ptr, offset):
    tl.store(out_ptr, tl.load(origin_ptr + offset))


class Place(NamedTuple):
    begin: torch.Tensor
    root: torch.Tensor


@triton.jit
def place_kernel(place, out_ptr, offset):
    if offset is None:
        tl.store(out_ptr, tl.load(place.begin))
    else:
        tl.store(out_ptr, tl.load(place.root + offset))


def test_an_argument_that_leads_to_others():
    here, there, out = zeros(4), torch.arange(5, 9), zeros(1)
    offset = (there.data_ptr() - here.data_ptr()) // 8
    for kernel, place in ((far_kernel, here), (place_kernel, Place(zeros(0), here))):
        kernel[(1,)](place, out, offset + 3)
        assert out == 8
        with fault("load of memory that nobody holds"):
            kernel[(1,)](place, out, offset + 4)
    with fault("load .* past argument 1 of 0 bytes"):
        place_kernel[(1,)](Place(zeros(0)[:], here), out, None)


@triton.jit
def unmasked_kernel(from_ptr, to_ptr, n, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(to_ptr + i, tl.load(from_ptr + i, mask=i < n))


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int32, torch.int64, torch.bfloat16, torch.float32]
)
def test_what_nobody_wrote(dtype):
    for made in (
        torch.empty(8, dtype=dtype),
        zeros(8, dtype).new_empty(8),
        torch.empty_like(zeros(8, dtype)),
    ):
        assert (made != made).all() or (made > 0).all()
    # Nor do the lanes that a load leaves out hold anything known.
    out = zeros(8, dtype)
    unmasked_kernel[(1,)](zeros(8, dtype), out, 4, N=8)
    assert (out[:4] == 0).all()
    assert (out[4:] != out[4:]).all() or (out[4:] > 0).all()


@triton.jit
def last_kernel(out_ptr):
    tl.store(out_ptr + tl.program_id(0) * 0, tl.program_id(0))


def test_programs_run_in_any_order(monkeypatch):
    monkeypatch.setitem(races.SHARING, "last_kernel", "to see which program is the last")
    found = []
    for seed in [*range(8), *range(8)]:
        interpreter.reseed(seed)
        last_kernel[(2, 3, 2)](out := zeros(1))
        found.append(int(out))
    assert set(found) == {0, 1}
    assert found[:8] == found[8:]


@triton.jit
def share_kernel(shared_ptr, out_ptr, WAY: tl.constexpr):
    program = tl.program_id(0)
    first = shared_ptr + program * 0
    if WAY == "stores":
        tl.store(first, 1)
    elif WAY == "load":
        tl.store(shared_ptr + program, 1)
        tl.store(out_ptr + program, tl.load(shared_ptr + 3 - program))
    elif WAY == "atomics":
        tl.atomic_add(first, 1)
        tl.atomic_cas(first, 0, 1)
    elif WAY == "load of atomics":
        if program % 2 == 0:
            tl.atomic_add(first, 1)
        else:
            tl.store(out_ptr + program, tl.load(first))
    else:
        tl.store(shared_ptr + program, tl.load(out_ptr + 3 - program))


@pytest.mark.parametrize(
    ("way", "what"),
    [
        ("stores", "store in .* and store in"),
        ("load", "(store|load) in .* and (load|store) in"),
        ("load of atomics", "(atomic|load) in .* and (load|atomic) in"),
        ("atomics", None),
        ("apart", None),
    ],
)
def test_programs_that_share(way, what):
    if what is None:
        share_kernel[(4,)](zeros(4), zeros(4), WAY=way)
        return
    with fault(f"race between programs . and . of share_kernel: {what}"):
        share_kernel[(4,)](zeros(4), zeros(4), WAY=way)


def test_programs_that_share_part_of_an_element():
    shared = zeros(4)
    with fault("race between programs"):
        halves_kernel[(2,)](shared, shared.view(torch.int32)[1:])


@triton.jit
def halves_kernel(wide_ptr, narrow_ptr):
    if tl.program_id(0) == 0:
        tl.store(wide_ptr, 1)
    else:
        tl.store(narrow_ptr, 1)


@triton.jit
def lanes_kernel(out_ptr, WAY: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    if WAY == "differ":
        tl.store(out_ptr + i // 2, i)
    elif WAY == "same":
        tl.store(out_ptr + i // 2, i // 2)
    elif WAY == "wipe":
        tl.store(out_ptr + i, 0)
        tl.store(out_ptr + N - 1 - i, i, mask=i < 2)
    elif WAY == "overtake":
        tl.store(out_ptr + N - 1 - i, tl.load(out_ptr + i))
    elif WAY == "in place":
        tl.store(out_ptr + i, tl.load(out_ptr + i) + 1)
        tl.store(out_ptr + i, i, mask=i > 2)
    else:
        tl.store(out_ptr + i, i)
        if WAY == "barrier":
            tl.debug_barrier()
        tl.store(out_ptr + N + i, tl.load(out_ptr + N - 1 - i))


@pytest.mark.parametrize(
    ("way", "what"),
    [
        ("differ", "two lanes store different values in one place"),
        ("wipe", "store in .* and then store in .* without a barrier"),
        ("overtake", "load in .* and then store in .* without a barrier"),
        ("no barrier", "store in .* and then load in .* without a barrier"),
        ("same", None),
        ("in place", None),
        ("barrier", None),
    ],
)
def test_threads_of_a_program(way, what):
    if what is None:
        lanes_kernel[(1,)](zeros(16), WAY=way, N=8)
        return
    with fault(what):
        lanes_kernel[(1,)](zeros(16), WAY=way, N=8)


@triton.jit
def hint_kernel(out_ptr, n):
    tl.store(out_ptr + tl.multiple_of(n, 16), 1)


def test_hints_are_refused():
    with fault("tt.divisibility is .*, a hint that the interpreter does not check"):
        hint_kernel[(1,)](zeros(20), 3)
