"""The only file that tells NumPy, torch and the rest apart: any array in, a NumPy view out.

NumPy arrays and CPU tensors are looked at where they lie, whatever their strides and whether or not
they may be written; nothing here writes to them. torch is known only if the caller has imported it.
Shapes, and what the numbers mean, are the caller's business.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore.errors import BackendError, DtypeError, InputError

_FLOAT32 = np.dtype(np.float32)
_INT64 = np.dtype(np.int64)

# What the engines read as it is. bfloat16 is the fourth: NumPy has no word for it, so it travels as
# uint16.
_NATIVE = {_FLOAT32: "float32", np.dtype(np.float16): "float16", np.dtype(np.int8): "int8"}


def vectors(op: str, name: str, array: Any) -> tuple[NDArray[Any], str]:
    """Any array of numbers as a view that an engine can read, and the name of its dtype.

    Args:
        op: the op's bare verb, for the error.
        name: the argument's name, for the error.
        array: NumPy, CPU torch, ml_dtypes' bfloat16, anything with a buffer, `__array__` or DLPack,
            or nested lists.

    Returns:
        The view, and "float32", "float16", "int8" or "bfloat16" (then the view is uint16). float64
        and the integers other than int8 are converted to float32, rounded once. Nothing else is
        copied, but for byte-swapped arrays.

    Raises:
        DtypeError: strings, objects, complex numbers, masked arrays, ragged lists.
        BackendError: the array is not in host memory.
    """
    # The common case, tested by identity because every call pays for it.
    if array.__class__ is np.ndarray and array.dtype is _FLOAT32:
        return array, "float32"
    view, is_bfloat16 = _host(op, name, array)
    if is_bfloat16:
        return view, "bfloat16"
    if view.dtype in _NATIVE:
        return view, _NATIVE[view.dtype]
    if view.dtype.kind not in "biuf":
        raise DtypeError(
            f"{op}: {name} has dtype {view.dtype}, should be float32, float16, bfloat16 or int8"
        )
    with np.errstate(over="ignore"):
        return view.astype(np.float32), "float32"


def rows(op: str, name: str, array: Any, dtype: str) -> NDArray[Any]:
    """Any array of numbers as rows for a store of a dtype, which native code rounds to that dtype.

    As `vectors`, but what is converted here (float64, integers) is rounded once to the store's own
    dtype; and uint16 is bfloat16 where the store is.
    """
    if array.__class__ is np.ndarray and array.dtype is _FLOAT32:
        return array
    view, is_bfloat16 = _host(op, name, array)
    if is_bfloat16 or (dtype == "bfloat16" and view.dtype == np.uint16):
        return view
    if view.dtype in (np.float32, np.float16):
        return view
    if view.dtype.kind not in "biuf":
        raise DtypeError(f"{op}: {name} has dtype {view.dtype}, should be a float of 16 or 32 bits")
    with np.errstate(over="ignore"):
        if dtype == "bfloat16":
            return _to_bfloat16(view.astype(np.float64))
        return view.astype(dtype)


def floats(op: str, name: str, array: Any) -> NDArray[np.float32]:
    """Any array of numbers as float32: as `vectors`, with float16, bfloat16 and int8 widened."""
    view, dtype = vectors(op, name, array)
    if dtype == "bfloat16":
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view.astype(np.float32, copy=False)


def reals(op: str, name: str, array: Any) -> NDArray[Any]:
    """As `vectors`, but arrays of float64 stay what they are. bfloat16 is a view as uint16."""
    if isinstance(array, np.ndarray) or _torch_of(array) is not None:
        view, is_bfloat16 = _host(op, name, array)
        if not is_bfloat16 and view.dtype == np.float64:
            return view
    return vectors(op, name, array)[0]


def numbers(op: str, name: str, array: Any) -> NDArray[Any]:
    """As `reals`, but bfloat16 is widened: for numbers that no engine reads."""
    found = reals(op, name, array)
    return found if found.dtype != np.uint16 else floats(op, name, array)


def differentiates(*given: Any) -> bool:
    """Whether torch must see this call: one of these tensors needs a gradient, or it is traced."""
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "Tensor"):
        return False
    tensors = [array for array in given if isinstance(array, torch.Tensor)]
    if torch.compiler.is_compiling():
        # torch 2.11 does not trace bool() of a list.
        return len(tensors) > 0
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def is_traced(array: Any) -> bool:
    """Whether this is a call that torch.compile or torch.export traces, with a tensor."""
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "Tensor") or not torch.compiler.is_compiling():
        return False
    return isinstance(array, torch.Tensor)


def ints(op: str, name: str, array: Any) -> NDArray[np.int64]:
    """Any array of whole numbers as int64; bools and floats are refused."""
    if array.__class__ is np.ndarray and array.dtype is _INT64:
        return array
    view, is_bfloat16 = _host(op, name, array)
    # An empty list is float64 to NumPy.
    if is_bfloat16 or (view.dtype.kind not in "iu" and view.size):
        raise DtypeError(f"{op}: {name} has dtype {_dtype_name(array, view)}, should be int64")
    if view.dtype == np.uint64 and view.size and view.max() > np.iinfo(np.int64).max:
        raise InputError(f"{op}: {name} has {view.max()}, should be below 2^63")
    return view.astype(np.int64, copy=False)


def codes(op: str, name: str, array: Any) -> NDArray[np.uint64]:
    """Any array of 64-bit words as uint64; bytes are taken eight to a word, lowest first."""
    view, is_bfloat16 = _host(op, name, array)
    if view.dtype == np.uint8 and view.ndim and view.shape[-1] % 8 == 0:
        return np.ascontiguousarray(view).view("<u8").astype(np.uint64, copy=False)
    if is_bfloat16 or (view.dtype not in (np.uint64, np.int64) and view.size):
        raise DtypeError(
            f"{op}: {name} has dtype {_dtype_name(array, view)} and shape {view.shape}, "
            "should be uint64 words, or uint8 in multiples of 8"
        )
    if view.dtype == np.int64:
        return view.view(np.uint64)
    return view.astype(np.uint64, copy=False)


def bools(op: str, name: str, array: Any) -> NDArray[np.bool_]:
    """Any array of bools; numbers are refused, because ids taken for a mask would go unseen."""
    view, is_bfloat16 = _host(op, name, array)
    if is_bfloat16 or (view.dtype.kind != "b" and view.size):
        raise DtypeError(f"{op}: {name} has dtype {_dtype_name(array, view)}, should be bool")
    return view.astype(np.bool_, copy=False)


def like(array: Any, result: NDArray[Any], *, is_bfloat16: bool = False) -> Any:
    """A result in the library, and on the device, of the array that was asked with.

    On the host nothing is copied; on a device nothing waits for the copy.
    """
    torch = _torch_of(array)
    if torch is None:
        return result
    tensor = torch.from_numpy(result.view(np.int16) if is_bfloat16 else result)
    tensor = tensor.view(torch.bfloat16) if is_bfloat16 else tensor
    return sent(tensor, array.device)


def check_plain(op: str, name: str, tensor: Any) -> None:
    """Raise DtypeError for a tensor that stands for others, inside `torch.vmap` or `torch.func`."""
    torch: Any = sys.modules["torch"]
    if torch.compiler.is_compiling():
        return
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        raise DtypeError(
            f"{op}: {name} is a tensor inside torch.vmap or torch.func, should be a plain one"
        )


def as_tensor(view: NDArray[Any]) -> Any:
    """A NumPy view of a caller's array as a tensor of the host, for what only reads it.

    Nothing is copied, but where the strides are such as torch has no words for.
    """
    torch: Any = sys.modules["torch"]
    if any(step < 0 or step % view.itemsize for step in view.strides):
        view = view.copy()
    return torch.from_numpy(view if view.flags.writeable else np.asarray(_Writable(view)))


class _Writable:
    """An array that may not be written, for torch, which warns of it; nothing here writes to it."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


def sent(tensor: Any, device: Any) -> Any:
    """A tensor of the host on a torch device, where it lies if that is the host; nothing waits."""
    if device.type == "cuda" and tensor.numel():
        # torch lets pinned memory be used again only after the copy.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def place(array: Any) -> str:
    """Where an array lies: "cpu", or the device in its library's words."""
    if _torch_of(array) is not None:
        return str(array.device)
    if isinstance(array, np.ndarray):
        return "cpu"
    device = getattr(array, "__dlpack_device__", None)
    if device is None:
        return "a CUDA device" if hasattr(array, "__cuda_array_interface__") else "cpu"
    kind, number = device()
    # 1 is DLPack's number of the host.
    return "cpu" if kind == 1 else f"DLPack device {int(kind)}:{number}"


def near(array: Any) -> Any:
    """An array on a device, copied to the host when it is there; anything else as it is."""
    if array.__class__ is np.ndarray or place(array) in ("cpu", "meta"):
        return array
    if _torch_of(array) is not None:
        return array.cpu()
    return array.get() if hasattr(array, "get") else np.asarray(array)


def _host(op: str, name: str, array: Any) -> tuple[NDArray[Any], bool]:
    """A NumPy view of any array, and whether it is bfloat16 seen as uint16."""
    if not isinstance(array, np.ndarray) and place(array) != "cpu":
        raise BackendError(f"{op}: {name} is on {place(array)}, should be on the cpu")
    torch = _torch_of(array)
    if torch is not None:
        return _from_torch(op, name, array, torch)
    view = (
        _from_numpy(op, name, array)
        if isinstance(array, np.ndarray)
        else _from_object(op, name, array)
    )
    # The dtype that ml_dtypes registers.
    if view.dtype.name == "bfloat16":
        return view.view(np.uint16), True
    return view, False


def _from_numpy(op: str, name: str, array: NDArray[Any]) -> NDArray[Any]:
    # The view would lose the mask. np.ma itself is not named, since that would import it.
    if array.__class__ is not np.ndarray and hasattr(array, "mask"):
        raise DtypeError(f"{op}: {name} is a masked array, should be a plain one")
    return np.asarray(array)


def _torch_of(array: Any) -> Any:
    """The module torch if the array is one of its tensors, else None."""
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)
    return torch if tensor is not None and isinstance(array, tensor) else None


def _from_torch(op: str, name: str, tensor: Any, torch: Any) -> tuple[NDArray[Any], bool]:
    try:
        if tensor.dtype is torch.bfloat16:
            return tensor.detach().view(torch.int16).numpy().view(np.uint16), True
        # force only detaches and resolves lazy views: the tensor is on the host already.
        return tensor.numpy(force=True), False
    except (TypeError, RuntimeError) as error:
        check_plain(op, name, tensor)
        raise DtypeError(
            f"{op}: {name} is a {tensor.layout} tensor of {tensor.dtype}, which NumPy cannot read"
        ) from error


def _from_object(op: str, name: str, array: Any) -> NDArray[Any]:
    if isinstance(array, (str, bytes, bytearray)):
        raise DtypeError(f"{op}: {name} is a {type(array).__name__}, should be an array of numbers")
    try:
        if hasattr(array, "__dlpack__") and not hasattr(array, "__array__"):
            return np.from_dlpack(array)
        return np.asarray(array)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise DtypeError(f"{op}: {name} is not an array of numbers: {error}") from error


def _to_bfloat16(numbers: NDArray[np.float64]) -> NDArray[np.uint16]:
    """float64 as the bits of bfloat16, rounded once, to nearest even."""
    near = numbers.astype(np.float32)
    bits = near.view(np.uint32)
    # Rounded to odd on the way: toward zero, with the last bit set where anything was lost.
    wide = near.astype(np.float64)
    bits = (bits - (np.abs(wide) > np.abs(numbers))) | (wide != numbers)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(numbers), 0x7FC0, rounded).astype(np.uint16)


def _dtype_name(array: Any, view: NDArray[Any]) -> Any:
    return getattr(array, "dtype", view.dtype)
