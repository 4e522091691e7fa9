#include "where.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "check.h"

namespace memcore {
namespace {

constexpr int kMaxDepth = 256;

double as_double(int64_t cell) { return std::bit_cast<double>(cell); }

template <typename Predicate>
uint16_t mask_of(const int64_t* cells, Predicate matches) {
  uint32_t mask = 0;
  for (int lane = 0; lane < kPageRows; ++lane) mask |= uint32_t{matches(cells[lane])} << lane;
  return static_cast<uint16_t>(mask);
}

// Compares as numbers; a null of either kind must be masked out by the caller.
template <typename Compare>
uint16_t compare(const int64_t* cells, ColumnKind kind, int64_t constant, Compare holds) {
  if (kind == ColumnKind::kFloat64) {
    return mask_of(cells,
                   [&](int64_t cell) { return holds(as_double(cell), as_double(constant)); });
  }
  return mask_of(cells, [&](int64_t cell) { return holds(cell, constant); });
}

uint16_t is_null(const int64_t* cells, ColumnKind kind) {
  if (kind == ColumnKind::kFloat64)
    return mask_of(cells, [](int64_t cell) { return std::isnan(as_double(cell)); });
  return mask_of(cells, [null = null_cell(kind)](int64_t cell) { return cell == null; });
}

uint16_t is_in(const int64_t* cells, ColumnKind kind, const int64_t* begin, const int64_t* end) {
  if (kind == ColumnKind::kFloat64) {
    const auto less = [](int64_t a, int64_t b) { return as_double(a) < as_double(b); };
    return mask_of(cells, [&](int64_t cell) { return std::binary_search(begin, end, cell, less); });
  }
  if (end - begin == 1)
    return mask_of(cells, [constant = *begin](int64_t cell) { return cell == constant; });
  return mask_of(cells, [&](int64_t cell) { return std::binary_search(begin, end, cell); });
}

bool is_sorted(ColumnKind kind, const int64_t* begin, const int64_t* end) {
  if (kind != ColumnKind::kFloat64) return std::is_sorted(begin, end);
  return std::none_of(begin, end, [](int64_t cell) { return std::isnan(as_double(cell)); }) &&
         std::is_sorted(begin, end,
                        [](int64_t a, int64_t b) { return as_double(a) < as_double(b); });
}

bool compares(WhereOp op) { return op >= WhereOp::kLess && op <= WhereOp::kGreaterEqual; }

}  // namespace

Where::Where(const int64_t* ops, int64_t n_ops, const int64_t* constants, int64_t n_constants,
             const std::vector<ColumnKind>& kinds)
    : constants_(constants, constants + n_constants) {
  steps_.reserve(n_ops);
  int depth = 0;
  for (int64_t i = 0; i < n_ops; ++i) {
    const int64_t* word = ops + 4 * i;
    MEMCORE_CHECK(word[0] >= 0 && word[0] <= 10, kInput, "where: op ", i, " is ", word[0],
                  ", should be 0 to 10");
    Step step{static_cast<WhereOp>(word[0]), ColumnKind::kInt64, 0, 0, 0};
    const bool reads_column =
        step.op != WhereOp::kTrue && !(step.op >= WhereOp::kAnd && step.op <= WhereOp::kNot);
    if (reads_column) {
      MEMCORE_CHECK(word[1] >= 0 && word[1] < static_cast<int64_t>(kinds.size()), kInput,
                    "where: op ", i, " has column ", word[1], ", should be below ", kinds.size());
      step.column = static_cast<int>(word[1]);
      step.kind = kinds[step.column];
    }
    if (reads_column && step.op != WhereOp::kIsNull) {
      step.begin = word[2];
      step.end = compares(step.op) ? word[2] + 1 : word[3];
      MEMCORE_CHECK(step.begin >= 0 && step.begin <= step.end && step.end <= n_constants, kInput,
                    "where: op ", i, " has constants ", word[2], " to ", word[3],
                    ", should be within ", n_constants);
      MEMCORE_CHECK(!compares(step.op) || step.kind != ColumnKind::kRef, kInput, "where: op ", i,
                    " compares a ref column, should test membership");
      MEMCORE_CHECK(
          compares(step.op) || is_sorted(step.kind, constants + step.begin, constants + step.end),
          kInput, "where: op ", i, " has constants out of order, should be sorted");
    }
    const int n_operands = step.op == WhereOp::kAnd || step.op == WhereOp::kOr ? 2
                           : step.op == WhereOp::kNot                          ? 1
                                                                               : 0;
    MEMCORE_CHECK(depth >= n_operands, kInput, "where: op ", i, " has ", depth,
                  " operands, should have ", n_operands);
    depth += 1 - n_operands;
    MEMCORE_CHECK(depth <= kMaxDepth, kInput, "where: op ", i, " has ", depth,
                  " results waiting, should be at most ", kMaxDepth);
    steps_.push_back(step);
  }
  MEMCORE_CHECK(depth == 1, kInput, "where: program leaves ", depth, " results, should leave 1");
}

uint16_t Where::match(const Step& step, const int64_t* cells) const {
  const int64_t* begin = constants_.data() + step.begin;
  const int64_t* end = constants_.data() + step.end;
  const uint16_t nulls = is_null(cells, step.kind);
  uint16_t mask = 0;
  switch (step.op) {
    case WhereOp::kIsNull: return nulls;
    case WhereOp::kIn: mask = is_in(cells, step.kind, begin, end); break;
    case WhereOp::kNotIn: mask = ~is_in(cells, step.kind, begin, end); break;
    case WhereOp::kLess:
      mask = compare(cells, step.kind, *begin, [](auto a, auto b) { return a < b; });
      break;
    case WhereOp::kLessEqual:
      mask = compare(cells, step.kind, *begin, [](auto a, auto b) { return a <= b; });
      break;
    case WhereOp::kGreater:
      mask = compare(cells, step.kind, *begin, [](auto a, auto b) { return a > b; });
      break;
    case WhereOp::kGreaterEqual:
      mask = compare(cells, step.kind, *begin, [](auto a, auto b) { return a >= b; });
      break;
    default: break;
  }
  return mask & ~nulls;
}

uint16_t Where::evaluate(const Slab& slab, int32_t page) const {
  uint16_t stack[kMaxDepth];
  int top = -1;
  for (const Step& step : steps_) {
    switch (step.op) {
      case WhereOp::kTrue: stack[++top] = 0xffff; break;
      case WhereOp::kAnd:
        --top;
        stack[top] &= stack[top + 1];
        break;
      case WhereOp::kOr:
        --top;
        stack[top] |= stack[top + 1];
        break;
      case WhereOp::kNot: stack[top] = ~stack[top]; break;
      default: stack[++top] = match(step, slab.cells(step.column, page));
    }
  }
  return stack[0];
}

}  // namespace memcore
