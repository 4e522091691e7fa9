"""CUDA's driver, as far as torch does not offer it.

That is memory of the host that a device reads, and ranges of a device's addresses that memory is
put behind as it is needed. Calls are made in the context that torch uses, the primary one of the
device, and while another thread captures a CUDA graph as well.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

_VERSION = 12000
_HAS_RANGES = 102
_PORTABLE_AND_MAPPED = 1 | 2
_RELAXED = 2
_DEVICE, _PINNED, _READ_AND_WRITE = 1, 1, 3

# What is called, with the types of its arguments.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (c_void_p, c_int),
    "cuDeviceGetAttribute": (c_void_p, c_int, c_int),
    "cuDevicePrimaryCtxRetain": (c_void_p, c_int),
    "cuCtxPushCurrent": (c_void_p,),
    "cuCtxPopCurrent": (c_void_p,),
    "cuThreadExchangeStreamCaptureMode": (c_void_p,),
    "cuMemHostRegister": (c_void_p, c_size_t, c_uint),
    "cuMemHostGetDevicePointer": (c_void_p, c_void_p, c_uint),
    "cuMemHostUnregister": (c_void_p,),
    "cuMemGetAllocationGranularity": (c_void_p, c_void_p, c_int),
    "cuMemAddressReserve": (c_void_p, c_size_t, c_size_t, c_uint64, c_uint64),
    "cuMemAddressFree": (c_uint64, c_size_t),
    "cuMemCreate": (c_void_p, c_size_t, c_void_p, c_uint64),
    "cuMemMap": (c_uint64, c_size_t, c_size_t, c_uint64, c_uint64),
    "cuMemSetAccess": (c_uint64, c_size_t, c_void_p, c_size_t),
    "cuMemUnmap": (c_uint64, c_size_t),
    "cuMemRelease": (c_uint64,),
}


class DriverError(Exception):
    """The driver refused; nothing has changed. Whoever asked has another way."""


class _Location(ctypes.Structure):
    _fields_ = (("type", c_int), ("id", c_int))


class _Kind(ctypes.Structure):
    """CUmemAllocationProp."""

    _fields_ = (
        ("type", c_int),
        ("handle_types", c_int),
        ("location", _Location),
        ("metadata", c_void_p),
        ("flags", ctypes.c_ubyte * 8),
    )


class _Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = (("location", _Location), ("flags", c_int))


def opened(device: Any) -> "Driver | None":
    """The driver of a torch device, or None where there is none to be had."""
    if device.type != "cuda":
        return None
    try:
        return Driver(ctypes.CDLL("libcuda.so.1"), device.index)
    except (OSError, DriverError):
        return None


class Driver:
    """One device, in the words of its driver. In a forked child every call is refused.

    Attributes:
        granule: bytes of memory that are put behind addresses at once; 0 where that is not offered.
    """

    def __init__(self, library: Any, number: int) -> None:
        """Find the functions of a loaded libcuda for the device of this number.

        Raises:
            DriverError: it is too old, or there is no such device.
        """
        self._process = os.getpid()
        self._calls = {name: _found(library, name) for name in _FUNCTIONS}
        self._context = c_void_p()
        device = c_int()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", byref(device), number)
        self._call("cuDevicePrimaryCtxRetain", byref(self._context), device.value)
        location = _Location(_DEVICE, device.value)
        self._kind = _Kind(_PINNED, 0, location)
        self._access = _Access(location, _READ_AND_WRITE)
        has_ranges, granule = c_int(), c_size_t()
        self._call("cuDeviceGetAttribute", byref(has_ranges), _HAS_RANGES, device.value)
        if has_ranges.value:
            self._call("cuMemGetAllocationGranularity", byref(granule), byref(self._kind), 0)
        self.granule = granule.value

    def lock(self, address: int, n_bytes: int) -> int:
        """Page-lock memory of the host, for the device to read; its address there."""
        there = c_uint64()
        with self.context():
            self._call("cuMemHostRegister", address, n_bytes, _PORTABLE_AND_MAPPED)
            try:
                self._call("cuMemHostGetDevicePointer", byref(there), address, 0)
            except DriverError:
                self._call("cuMemHostUnregister", address)
                raise
        return there.value

    def unlock(self, address: int) -> None:
        """Undo `lock`, when nothing reads there."""
        with self.context():
            self._call("cuMemHostUnregister", address)

    def reserve(self, n_bytes: int) -> int:
        """Addresses without memory, whole granules."""
        address = c_uint64()
        with self.context():
            self._call("cuMemAddressReserve", byref(address), n_bytes, 0, 0, 0)
        return address.value

    def back(self, address: int, n_bytes: int) -> None:
        """Put new memory behind reserved addresses, whole granules. It holds anything."""
        memory = c_uint64()
        with self.context():
            self._call("cuMemCreate", byref(memory), n_bytes, byref(self._kind), 0)
            try:
                self._call("cuMemMap", address, n_bytes, 0, memory.value, 0)
                try:
                    self._call("cuMemSetAccess", address, n_bytes, byref(self._access), 1)
                except DriverError:
                    self._call("cuMemUnmap", address, n_bytes)
                    raise
            finally:
                # It lives as long as addresses lead to it.
                self._call("cuMemRelease", memory.value)

    def free(self, address: int, n_bytes: int, backed: list[tuple[int, int]]) -> None:
        """Undo `reserve` and each `back` of (address, bytes), when nothing reads there."""
        with self.context():
            for begin, length in backed:
                self._call("cuMemUnmap", begin, length)
            self._call("cuMemAddressFree", address, n_bytes)

    @contextmanager
    def context(self) -> Iterator[None]:
        """Have calls concern this device, whatever other threads capture.

        Raises:
            DriverError: this is a forked child, which may not call CUDA.
        """
        if os.getpid() != self._process:
            raise DriverError("a forked child cannot call the driver")
        mode = c_int(_RELAXED)
        self._call("cuCtxPushCurrent", self._context)
        try:
            self._call("cuThreadExchangeStreamCaptureMode", byref(mode))
            try:
                yield
            finally:
                # What was done is done, whatever these say.
                self._calls["cuThreadExchangeStreamCaptureMode"](byref(mode))
        finally:
            self._calls["cuCtxPopCurrent"](byref(c_void_p()))

    def _call(self, name: str, *given: Any) -> None:
        error = self._calls[name](*given)
        if error:
            raise DriverError(f"{name} gave {error}")


def _found(library: Any, name: str) -> Any:
    """A function as CUDA 12 has it: some have other arguments under their plain names."""
    try:
        find = library.cuGetProcAddress_v2
    except AttributeError:
        raise DriverError("the driver is older than CUDA 12") from None
    place, status = c_void_p(), c_int()
    error = find(name.encode(), byref(place), c_int(_VERSION), c_uint64(0), byref(status))
    if error or not place.value:
        raise DriverError(f"the driver has no {name}")
    return ctypes.CFUNCTYPE(c_int, *_FUNCTIONS[name])(place.value)
