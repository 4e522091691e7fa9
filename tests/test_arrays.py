"""Any array in: what is looked at in place, what is converted, what is refused."""

import array
import subprocess
import sys

import numpy as np
import pytest

from compare import bits
from containers import CONTAINERS, to_bfloat16
from memcore import arrays
from memcore.errors import BackendError, DtypeError, InputError

ROWS = np.arange(24, dtype=np.float32).reshape(4, 6) / 8

COPIED = ("byte_swapped", "float64", "list")
IN_PLACE = [name for name in CONTAINERS if name not in COPIED]


def address(thing):
    return thing.data_ptr() if hasattr(thing, "data_ptr") else thing.ctypes.data


@pytest.mark.parametrize("name", IN_PLACE)
def test_arrays_are_looked_at_in_place(name):
    container = CONTAINERS[name]
    if container.needs:
        pytest.importorskip(container.needs)
    wrapped = container.wrap(ROWS)
    view, dtype = arrays.vectors("search", "keys", wrapped)
    assert view.ctypes.data == address(wrapped)
    step = wrapped.element_size() if container.is_torch else 1
    strides = wrapped.stride() if container.is_torch else wrapped.strides
    assert view.strides == tuple(step * stride for stride in strides)
    assert dtype == next((word for word in ("bfloat16", "float16") if word in name), "float32")
    numbers = container.numbers(ROWS)
    expected = to_bfloat16(numbers) if dtype == "bfloat16" else numbers
    assert np.array_equal(view, expected)


@pytest.mark.parametrize("name", COPIED)
def test_what_is_converted(name):
    view, dtype = arrays.vectors("search", "keys", CONTAINERS[name].wrap(ROWS))
    assert dtype == "float32"
    assert view.dtype == np.float32
    assert view.dtype.isnative
    assert np.array_equal(view, ROWS)


def test_float64_is_rounded_once_and_overflows_in_silence():
    numbers = [[1 + 2.0**-24 + 2.0**-50, 1e300, -1e300, 1e-50]]
    view, _ = arrays.vectors("search", "keys", numbers)
    assert view.tolist() == [[1 + 2.0**-23, np.inf, -np.inf, 0]]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "int32", "int64", "uint64"])
def test_whole_numbers_become_float32(dtype):
    view, name = arrays.vectors("search", "keys", np.array([[0, 1, 1]], dtype))
    assert name == "float32"
    assert view.dtype == np.float32
    assert view.tolist() == [[0, 1, 1]]


def test_int8_stays():
    keys = np.array([[-128, 127]], np.int8)
    view, name = arrays.vectors("search", "keys", keys)
    assert name == "int8"
    assert np.shares_memory(view, keys)


def test_a_tensor_that_requires_grad_is_detached():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.ones(2, 3, dtype=dtype, requires_grad=True)
        view, _ = arrays.vectors("search", "queries", tensor)
        assert view.ctypes.data == tensor.data_ptr()
        assert arrays.vectors("search", "queries", torch.nn.Parameter(tensor))[0].shape == (2, 3)


def test_tensors_of_every_whole_dtype_and_double():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool):
        view, name = arrays.vectors("search", "keys", torch.ones(2, 3, dtype=dtype))
        assert name == "float32"
        assert view.tolist() == [[1, 1, 1]] * 2
    tensor = torch.tensor([[-128, 127]], dtype=torch.int8)
    view, name = arrays.vectors("search", "keys", tensor)
    assert (name, view.ctypes.data) == ("int8", tensor.data_ptr())


def test_a_lazily_negated_tensor_is_resolved():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([[1 + 2j, 3 - 4j]]).conj().imag
    assert tensor.is_neg()
    assert arrays.vectors("search", "keys", tensor)[0].tolist() == [[-2, 4]]


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_tensors_that_numpy_cannot_read_are_refused():
    torch = pytest.importorskip("torch")
    floats = torch.ones(2, 2)
    for tensor in (floats.to_sparse(), floats.to(torch.float8_e4m3fn), floats.to(torch.cfloat)):
        with pytest.raises(DtypeError, match=r"^search: keys "):
            arrays.vectors("search", "keys", tensor)


def test_a_tensor_on_a_device_is_refused():
    torch = pytest.importorskip("torch")
    tensor = torch.ones(2, 2, device="meta")
    assert arrays.place(tensor) == "meta"
    with pytest.raises(BackendError, match=r"^search: keys is on meta, should be on the cpu$"):
        arrays.vectors("search", "keys", tensor)


def test_buffers_are_looked_at_in_place():
    flat = array.array("f", [1, 2, 3, 4])
    for buffer in (flat, memoryview(flat), memoryview(flat).cast("B").cast("f", (2, 2))):
        view, name = arrays.vectors("search", "keys", buffer)
        assert name == "float32"
        assert view.ctypes.data == flat.buffer_info()[0]


class OnlyDLPack:
    """An array that speaks DLPack and nothing else, on a device of that protocol's numbering."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def test_dlpack_is_read_in_place():
    rows = ROWS.copy()
    view, name = arrays.vectors("search", "keys", OnlyDLPack(rows))
    assert name == "float32"
    assert np.shares_memory(view, rows)
    assert np.array_equal(view, rows)


def test_dlpack_of_a_device_is_refused():
    there = OnlyDLPack(ROWS, device=(2, 1))
    assert arrays.place(there) == "DLPack device 2:1"
    with pytest.raises(BackendError, match=r"^search: keys is on DLPack device 2:1, should be on"):
        arrays.vectors("search", "keys", there)


class OnlyArray:
    """An array by NumPy's protocol."""

    def __array__(self, dtype=None, copy=None):
        return ROWS


def test_the_array_protocol_is_read():
    assert np.shares_memory(arrays.vectors("search", "keys", OnlyArray())[0], ROWS)


def test_a_matrix_and_a_map_become_plain_views():
    for name in ("mapped", "numpy"):
        view, _ = arrays.vectors("search", "keys", CONTAINERS[name].wrap(ROWS))
        assert type(np.asarray(view)[0]) is np.ndarray
    mapped = CONTAINERS["mapped"].wrap(ROWS)
    assert type(mapped) is np.memmap
    assert np.shares_memory(arrays.vectors("search", "keys", mapped)[0], mapped)


def test_floats_widens_all():
    torch = pytest.importorskip("torch")
    numbers = np.array([1.5, -2, 0.0078125, np.inf], np.float32)
    forms = (
        numbers,
        numbers.astype(np.float16),
        numbers.astype(np.float64),
        torch.tensor(numbers).bfloat16(),
        numbers.tolist(),
        numbers[::-1][::-1],
    )
    for form in forms:
        wide = arrays.floats("search", "bias", form)
        assert wide.dtype == np.float32
        assert (bits(wide) == bits(numbers)).all()
    assert np.shares_memory(arrays.floats("search", "bias", numbers), numbers)


def test_ints():
    torch = pytest.importorskip("torch")
    numbers = np.array([[0, -1], [5, 2**40]])
    swapped = numbers.astype(np.dtype(np.int64).newbyteorder())
    for form in (numbers, numbers.tolist(), torch.tensor(numbers), numbers[::-1][::-1], swapped):
        out = arrays.ints("get", "ids", form)
        assert out.dtype == np.int64
        assert out.dtype.isnative
        assert np.array_equal(out, numbers)
    assert arrays.ints("get", "ids", numbers) is numbers
    assert arrays.ints("get", "ids", []).shape == (0,)
    assert arrays.ints("get", "ids", np.array([2**63 - 1], np.uint64)).tolist() == [2**63 - 1]
    for bad in ([1.0], [True], ["1"], [None], np.array([1], "timedelta64[s]"), 1.0, torch.ones(1)):
        with pytest.raises(DtypeError, match=r"^get: ids has dtype .*, should be int64$"):
            arrays.ints("get", "ids", bad)
    with pytest.raises(InputError, match=f"^get: ids has {2**63}, should be below"):
        arrays.ints("get", "ids", np.array([2**63], np.uint64))


def test_bfloat16_is_not_taken_for_whole_numbers():
    torch = pytest.importorskip("torch")
    for read in (arrays.ints, arrays.bools):
        with pytest.raises(DtypeError, match=r"has dtype torch.bfloat16, should be"):
            read("get", "ids", torch.ones(2, dtype=torch.bfloat16))


def test_bools():
    torch = pytest.importorskip("torch")
    flags = np.array([True, False])
    for form in (flags, flags.tolist(), torch.tensor(flags)):
        assert arrays.bools("search", "mask", form).tolist() == [True, False]
    assert arrays.bools("search", "mask", []).dtype == np.bool_
    for bad in ([0, 1], [1.0], ["yes"], np.array([1], np.uint8)):
        with pytest.raises(DtypeError, match=r"^search: mask has dtype .*, should be bool$"):
            arrays.bools("search", "mask", bad)


def test_results_come_in_the_library_of_the_question():
    torch = pytest.importorskip("torch")
    result = ROWS.copy()
    assert arrays.like(ROWS, result) is result
    assert arrays.like([1.0], result) is result
    tensor = arrays.like(torch.ones(1), result)
    assert type(tensor) is torch.Tensor
    assert tensor.data_ptr() == result.ctypes.data


def test_places():
    assert [arrays.place(thing) for thing in (ROWS, [1], "words", None)] == ["cpu"] * 4


def test_torch_is_not_imported():
    code = (
        "import sys, memcore; memcore.search([[1.0]], [[1.0]]); "
        "heavy = {'torch', 'numpy.ma', 'importlib.metadata', 'ml_dtypes'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
