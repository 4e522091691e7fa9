"""What a kernel variant is: types, constants, options, and what must hold of what it compiles to.

A type that ends in ! is a multiple of 16, as torch's pointers and most sizes are; "1" is an
argument that is 1, and None one that is not given. An argument of several parts has a tuple.
"""

from dataclasses import dataclass, field
from typing import Any

ARCHITECTURES = (80, 90, 100)

FLOATS, INTS, LONGS, BYTES = "*fp32!", "*i32!", "*i64!", "*i8!"
HALVES = "*bf16!"
NO_FUSION = {"enable_fp_fusion": False}
# Multiplies of tensor cores, by architecture.
INT8 = {80: "IMMA", 90: "IGMMA", 100: "IMMA"}
BF16 = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}


@dataclass(frozen=True)
class Variant:
    """One way in which a kernel is compiled.

    Attributes:
        kernel: module and name below memcore.kernels.
        types: of all arguments but the constants.
        constants: the constexpr arguments.
        options: num_warps, num_stages, enable_fp_fusion.
        registers: the most that a thread may use.
        is_canonical: the score is computed here: no fusion, no flush, no approximation.
        divides: a correctly rounded division is in it, which is made of fused steps itself.
        multiplies: the instructions of which one must be there, by architecture.
        architectures: where it is launched.
    """

    kernel: str
    types: dict[str, Any]
    constants: dict[str, Any]
    options: dict[str, Any]
    registers: int
    is_canonical: bool = False
    divides: bool = False
    multiplies: dict[int, str] = field(default_factory=dict)
    architectures: tuple[int, ...] = ARCHITECTURES
