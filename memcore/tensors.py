"""Arrays on a device, as torch tensors: the counterpart of `arrays` for what a GPU computes.

Triton launches through torch, so that the arrays of CuPy and others (seen without a copy, through
the CUDA array interface, or else DLPack) need torch too. Nothing here waits for the device: what
would have to be read back to be checked is not checked, and the kernels leave it out instead.
"""

import importlib
import re
import sys
from typing import Any

from memcore import arrays, scalars
from memcore.errors import BackendError, DtypeError, ShapeError


def library(op: str) -> Any:
    """The module torch, for what needs it beside the arrays.

    Raises:
        BackendError: it is not there.
    """
    try:
        import torch
    except ImportError:
        raise BackendError(
            f"{op}: torch is not installed, should be: kernels are launched through it"
        ) from None
    return torch


def device_of(op: str, *given: tuple[str, Any]) -> Any:
    """The device on which all of these named arrays lie, None aside.

    Raises:
        BackendError: they lie on several devices, or torch is not there.
    """
    first = None
    for name, array in given:
        if array is None:
            continue
        place = _seen(op, name, array).device
        if first is None:
            first = place
        elif place != first:
            raise BackendError(f"{op}: {name} is on {place}, should be on {first} as the others")
    return first


def place_for(op: str, device: Any) -> Any:
    """The torch device of a name, if kernels run there.

    Raises:
        BackendError: torch or Triton is not installed, or there is no such GPU.
    """
    if not re.fullmatch("cuda(:[0-9]+)?", str(device)):
        given = scalars.shown(device)
        raise BackendError(f"{op}: device is {given}, should be 'cpu' or 'cuda'")
    torch, device = library(op), str(device)
    try:
        triton: Any = importlib.import_module("triton")
    except ImportError:
        raise BackendError(f"{op}: triton is not installed, should be for a device") from None
    if triton.knobs.runtime.interpret:
        return torch.device("cpu")
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = torch.device(device)
    number = torch.cuda.current_device() if n_devices and named.index is None else named.index
    if number is None or number >= n_devices:
        raise BackendError(
            f"{op}: device is {device!r}, but torch sees {n_devices} GPUs, should be 'cpu'"
        )
    return torch.device("cuda", number)


def lies_on(device: Any, array: Any) -> bool:
    """Whether an array lies on a torch device, or on any device in another library's words."""
    torch = library("search")
    if isinstance(array, torch.Tensor):
        return bool(array.device == device)
    return arrays.place(array) != "cpu"


def vectors(op: str, name: str, array: Any) -> Any:
    """Numbers that a kernel reads: float32, float16, bfloat16 or int8; others become float32."""
    torch = library(op)
    tensor = _seen(op, name, array)
    if tensor.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int8):
        return tensor
    if tensor.is_complex():
        raise DtypeError(
            f"{op}: {name} has dtype {tensor.dtype}, should be float32, float16, bfloat16 or int8"
        )
    return tensor.to(torch.float32)


def floats_on(op: str, name: str, array: Any, device: Any) -> Any:
    """Numbers as float32, contiguous, on a device, from wherever they lie."""
    torch = library(op)
    if arrays.place(array) == "cpu" and not isinstance(array, torch.Tensor):
        # Arrays of a codebook are shared, and tensors could be written to.
        return sent(arrays.floats(op, name, array), device)
    return vectors(op, name, array).to(device, torch.float32).contiguous()


def sent(array: Any, device: Any) -> Any:
    """An array of NumPy as a tensor on a torch device, uint16 as bfloat16; nothing waits."""
    torch = library("sent")
    is_bfloat16 = array.dtype == "uint16"
    tensor = arrays.as_tensor(array.view("int16") if is_bfloat16 else array)
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    return arrays.sent(tensor.view(torch.bfloat16) if is_bfloat16 else tensor, device)


def fetched(*tensors: Any) -> list[Any]:
    """Tensors of one device as NumPy's arrays; one wait for all of them."""
    torch, device = library("fetched"), tensors[0].device
    if device.type != "cuda":
        return [each.numpy() for each in tensors]
    rooms = [torch.empty_like(each, device="cpu", pin_memory=True) for each in tensors]
    for room, each in zip(rooms, tensors, strict=True):
        room.copy_(each, non_blocking=True)
    torch.cuda.current_stream(device).synchronize()
    return [room.numpy() for room in rooms]


def host(array: Any) -> Any:
    """The numbers of an array as NumPy holds them, halves as float32; this waits for the device."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(array, torch.Tensor):
        return array
    is_half = array.is_floating_point() and array.dtype.itemsize < 4
    return (array.float() if is_half else array).detach().cpu().numpy()


def weights(op: str, name: str, array: Any, n_keys: int) -> Any:
    """A scale or a bias of each key, float32 and contiguous."""
    each = vectors(op, name, array).to(library(op).float32).contiguous()
    if each.shape != (n_keys,):
        raise ShapeError(
            f"{op}: {name} has shape {tuple(each.shape)}, should be ({n_keys},), one per key"
        )
    return each


def ints(op: str, name: str, array: Any) -> Any:
    """Whole numbers as int64, contiguous."""
    tensor = _seen(op, name, array)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is library(op).bool:
        raise DtypeError(f"{op}: {name} has dtype {tensor.dtype}, should be int64")
    return tensor.to(library(op).int64).contiguous()


def numbers(op: str, name: str, array: Any, dtype: Any) -> Any:
    """Real numbers in a dtype of torch."""
    tensor = _seen(op, name, array)
    if tensor.is_complex():
        raise DtypeError(f"{op}: {name} has dtype {tensor.dtype}, should be {dtype}")
    return tensor.to(dtype)


def words(op: str, name: str, array: Any) -> Any:
    """Codes of 64-bit words, or of bytes in multiples of eight, as int32 words, contiguous."""
    torch = library(op)
    tensor = _seen(op, name, array)
    in_bytes = tensor.dtype is torch.uint8 and tensor.ndim and tensor.shape[-1] % 8 == 0
    if not tensor.ndim or (not in_bytes and tensor.dtype not in (torch.uint64, torch.int64)):
        raise DtypeError(
            f"{op}: {name} has dtype {tensor.dtype} and shape {tuple(tensor.shape)}, "
            "should be uint64 words, or uint8 in multiples of 8"
        )
    if not in_bytes:
        tensor = tensor.view(torch.int64)
    if not tensor.numel():
        n_words = tensor.shape[-1] // (4 if in_bytes else 1) * (1 if in_bytes else 2)
        return tensor.new_empty((*tensor.shape[:-1], n_words), dtype=torch.int32)
    return tensor.contiguous().view(torch.int32)


def codes(op: str, name: str, array: Any, dtype: str) -> Any:
    """Codes of a book in an unsigned dtype, contiguous; they are not looked at."""
    torch = library(op)
    tensor = _seen(op, name, array)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool:
        raise DtypeError(f"{op}: {name} has dtype {tensor.dtype}, should be int64")
    target = getattr(torch, dtype)
    if tensor.dtype is not target:
        # torch converts to signed numbers of all sizes, which have the same bits.
        signed = {"uint8": torch.uint8, "uint16": torch.int16, "uint32": torch.int32}[dtype]
        tensor = tensor.to(torch.int64).to(signed).view(target)
    return tensor.contiguous()


def bools(op: str, name: str, array: Any) -> Any:
    """A mask."""
    tensor = _seen(op, name, array)
    if tensor.dtype is not library(op).bool:
        raise DtypeError(f"{op}: {name} has dtype {tensor.dtype}, should be bool")
    return tensor


def like(array: Any, result: Any) -> Any:
    """A result in the library of the array that was asked with, without a copy.

    A tensor where that library does not take DLPack.
    """
    if isinstance(array, library("like").Tensor):
        return result
    owner = sys.modules[type(array).__module__.split(".")[0]]
    return owner.from_dlpack(result) if hasattr(owner, "from_dlpack") else result


def _seen(op: str, name: str, array: Any) -> Any:
    """The array as a detached tensor, where it lies."""
    torch = library(op)
    if isinstance(array, torch.Tensor):
        if array.layout is not torch.strided or array.is_quantized:
            raise DtypeError(
                f"{op}: {name} is a {array.layout} tensor of {array.dtype}, "
                "should be a dense one of numbers"
            )
        arrays.check_plain(op, name, array)
        return array.detach()
    if arrays.place(array) == "cpu":
        raise BackendError(f"{op}: {name} is not a tensor, should be one on the others' device")
    if not torch.cuda.is_available():
        place = arrays.place(array)
        raise BackendError(f"{op}: {name} is on {place}, but torch sees no GPU, should be 'cpu'")
    tensor = _by_interface(op, name, array)
    if tensor is not None:
        return tensor
    if not hasattr(array, "__dlpack__"):
        raise DtypeError(f"{op}: {name} is not an array of numbers that torch can see")
    try:
        # Its library orders its stream before ours.
        return torch.from_dlpack(array)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise DtypeError(f"{op}: {name} is not an array of numbers: {error}") from error


def _by_interface(op: str, name: str, array: Any) -> Any:
    """An array with the CUDA array interface as a tensor, once its stream has written it.

    None where it has none that torch can read: no type string is bfloat16, for one.

    Raises:
        DtypeError: a masked array, whose mask would be lost.
    """
    torch = library(op)
    try:
        interface = array.__cuda_array_interface__
    except Exception:
        # It may raise anything, for a dtype that has no type string.
        return None
    if interface.get("mask") is not None:
        raise DtypeError(f"{op}: {name} is a masked array, should be a plain one")
    try:
        tensor = _on_its_device(array, interface)
    except (TypeError, ValueError):
        return None
    stream = interface.get("stream")
    if stream is not None:
        writer = torch.cuda.ExternalStream(stream, tensor.device)
        torch.cuda.current_stream(tensor.device).wait_stream(writer)
    return tensor


def _on_its_device(array: Any, interface: dict[str, Any]) -> Any:
    """Memory of a device as a tensor: torch copies what it is asked for on another device."""
    torch = library("search")
    address = interface["data"][0]
    seen = _Readable(array, interface)
    device = getattr(array, "__dlpack_device__", None)
    first = torch.cuda.current_device() if device is None else device()[1]
    for number in (first, *range(torch.cuda.device_count())):
        tensor = torch.as_tensor(seen, device=torch.device("cuda", number))
        if not tensor.numel() or tensor.data_ptr() == address:
            return tensor
    raise ValueError("the memory is on no device that torch sees")


class _Readable:
    """An array that may not be written, for torch, which takes none; nothing here writes to it."""

    def __init__(self, array: Any, interface: dict[str, Any]) -> None:
        self.array = array
        self.__cuda_array_interface__ = {**interface, "data": (interface["data"][0], False)}
