"""Conditions on the cells of rows: the postfix programs of the page store, run row by row.

A row's stack is the bits of one int64, the top at bit 0, so that a program may wait for 64 results
at most. Floats are compared as the integers that order as they do.
"""

import triton
import triton.language as tl

from .pages import cells_of

_TRUE: tl.constexpr = tl.constexpr(0)
_IN: tl.constexpr = tl.constexpr(1)
_LESS: tl.constexpr = tl.constexpr(2)
_LESS_EQUAL: tl.constexpr = tl.constexpr(3)
_GREATER: tl.constexpr = tl.constexpr(4)
_GREATER_EQUAL: tl.constexpr = tl.constexpr(5)
_IS_NULL: tl.constexpr = tl.constexpr(6)
_AND: tl.constexpr = tl.constexpr(7)
_OR: tl.constexpr = tl.constexpr(8)
_NOT: tl.constexpr = tl.constexpr(9)
_NOT_IN: tl.constexpr = tl.constexpr(10)

_FLOAT64: tl.constexpr = tl.constexpr(1)
_REF: tl.constexpr = tl.constexpr(3)

_LOWEST: tl.constexpr = tl.constexpr(-(2**63))
_HIGHEST: tl.constexpr = tl.constexpr(2**63 - 1)
_INFINITY: tl.constexpr = tl.constexpr(0x7FF0000000000000)


@triton.jit
def is_null(cell, kind):
    """Which cells hold no value."""
    null = tl.where(kind == _REF, cell == -1, cell == _LOWEST)
    return tl.where(kind == _FLOAT64, (cell & _HIGHEST) > _INFINITY, null)


@triton.jit
def ordered(cell, kind):
    """Cells that are not null as integers in the order of their values; -0.0 is 0.0."""
    number = tl.where(cell == _LOWEST, 0, tl.where(cell < 0, cell ^ _HIGHEST, cell))
    return tl.where(kind == _FLOAT64, number, cell)


@triton.jit
def is_among(x, sorted_ptr, n):
    """Which of x (N,) are among n integers in rising order."""
    place = tl.zeros_like(x)
    left = tl.zeros((), tl.int64) + n
    while left > 1:
        half = left // 2
        place = tl.where(tl.load(sorted_ptr + place + half - 1) < x, place + half, place)
        left -= half
    # The last candidate may be the one before the place where x would stand.
    here = tl.load(sorted_ptr + place, mask=(place < n), other=0)
    return (here == x) & (place < n)


@triton.jit
def meets(pages, page, lane, is_row, programs, which):
    """Which rows meet a program, `which` of many.

    Args beside the rows (N,), addresses of pages and lanes:
        pages: an `arguments.PagesView`; programs: a `ProgramsView`.
    """
    stack = tl.zeros_like(page)
    for step in range(tl.load(programs.ends + which), tl.load(programs.ends + which + 1)):
        at = programs.steps + step * 4
        op = tl.load(at)
        top = stack & 1
        if op == _AND:
            stack = (stack >> 1) & (top | -2)
        elif op == _OR:
            stack = (stack >> 1) | top
        elif op == _NOT:
            stack = stack ^ 1
        elif op == _TRUE:
            stack = (stack << 1) | 1
        else:
            column, begin, end = tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
            kind = tl.load(pages.kinds + column)
            cells = cells_of(pages.root, page, lane, column, pages.ids_at)
            cell = tl.load(cells, mask=is_row, other=0)
            null = is_null(cell, kind)
            x = ordered(cell, kind)
            if op == _IS_NULL:
                holds = null
            elif (op == _IN) | (op == _NOT_IN):
                is_in = is_among(x, programs.constants + begin, end - begin)
                holds = (is_in == (op == _IN)) & ~null
            else:
                constant = tl.load(programs.constants + begin)
                is_less = (x < constant) & ((op == _LESS) | (op == _LESS_EQUAL))
                is_more = (x > constant) & ((op == _GREATER) | (op == _GREATER_EQUAL))
                is_equal = (x == constant) & ((op == _LESS_EQUAL) | (op == _GREATER_EQUAL))
                holds = (is_less | is_more | is_equal) & ~null
            stack = (stack << 1) | holds.to(tl.int64)
    return (stack & 1) == 1


@triton.jit
def number(pages, page, lane, is_row, column, missing):
    """The numbers of a column as float32; null, and no row, are `missing`."""
    kind = tl.load(pages.kinds + column)
    cells = cells_of(pages.root, page, lane, column, pages.ids_at)
    cell = tl.load(cells, mask=is_row, other=0)
    null = is_null(cell, kind) | ~is_row
    wide = tl.where(null, 0, cell).to(tl.float64, bitcast=True).to(tl.float32)
    whole = cell.to(tl.float32)
    return tl.where(null, missing, tl.where(kind == _FLOAT64, wide, whole))
