"""The kinds of array that a caller may come with, and the numbers that are then in them."""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


def same(array):
    return array


def to_float16(array):
    with np.errstate(over="ignore"):
        return array.astype(np.float16)


def to_bfloat16(array):
    """Rounded to nearest even on the bits, as uint16; NaN stays NaN."""
    bits = array.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded)


def from_bfloat16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def strided(array):
    """Every second row and third component of a larger array."""
    wide = np.full((2 * len(array), 3 * array.shape[1]), np.nan, array.dtype)
    view = wide[::2, ::3]
    view[...] = array
    return view


def reversed_twice(array):
    """Negative strides along both axes."""
    return np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(array):
    """One byte beyond where a float may stand."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def mapped(array):
    """A read-only map of a file that is deleted already."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, array)
        file.flush()
        return np.load(Path(file.name), mmap_mode="r")


def tensor(array, dtype="float32"):
    import torch

    # torch cannot share an array that it may not write.
    return torch.tensor(array).to(getattr(torch, dtype))


def strided_tensor(array, dtype="float32"):
    return tensor(np.repeat(np.repeat(array, 2, 0), 3, 1), dtype)[::2, ::3]


def ml_bfloat16(array):
    import ml_dtypes

    return to_bfloat16(array).view(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Container:
    """A kind of array: `wrap` makes one of float32 numbers, `numbers` says what it then holds."""

    wrap: Callable[[Any], Any]
    numbers: Callable[[Any], Any] = same
    needs: str = ""

    @property
    def is_torch(self) -> bool:
        return self.needs == "torch"


def half_numbers(array):
    return to_float16(array).astype(np.float32)


def brain_numbers(array):
    return from_bfloat16(to_bfloat16(array))


BYTE_SWAPPED = np.dtype(np.float32).newbyteorder(">" if sys.byteorder == "little" else "<")

CONTAINERS = {
    "numpy": Container(same),
    "strided": Container(strided),
    "reversed": Container(reversed_twice),
    "fortran": Container(np.asfortranarray),
    "read_only": Container(read_only),
    "unaligned": Container(unaligned),
    "mapped": Container(mapped),
    "byte_swapped": Container(lambda array: array.astype(BYTE_SWAPPED)),
    "float64": Container(lambda array: array.astype(np.float64)),
    "list": Container(lambda array: array.tolist()),
    "float16": Container(to_float16, half_numbers),
    "float16_strided": Container(lambda array: strided(to_float16(array)), half_numbers),
    "ml_bfloat16": Container(ml_bfloat16, brain_numbers, "ml_dtypes"),
    "torch": Container(tensor, same, "torch"),
    "torch_strided": Container(strided_tensor, same, "torch"),
    "torch_float16": Container(lambda a: tensor(to_float16(a), "float16"), half_numbers, "torch"),
    "torch_bfloat16": Container(lambda a: tensor(a, "bfloat16"), brain_numbers, "torch"),
    "torch_bfloat16_strided": Container(
        lambda a: strided_tensor(a, "bfloat16"), brain_numbers, "torch"
    ),
}
