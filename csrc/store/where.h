#pragma once

#include <cstdint>
#include <vector>

#include "columns.h"
#include "slab.h"

namespace memcore {

enum class WhereOp : int64_t {
  kTrue = 0,
  kIn = 1,
  kLess = 2,
  kLessEqual = 3,
  kGreater = 4,
  kGreaterEqual = 5,
  kIsNull = 6,
  kAnd = 7,
  kOr = 8,
  kNot = 9,
  kNotIn = 10,
};

// A condition on the columns of a row, as a postfix program over 16-bit masks. Null matches kIsNull
// and kNot only.
class Where {
 public:
  // ops (n_ops, 4): op, column, begin, end; begin and end into constants. Throws kInput where the
  // program is malformed.
  Where(const int64_t* ops, int64_t n_ops, const int64_t* constants, int64_t n_constants,
        const std::vector<ColumnKind>& kinds);

  // Bit r is set if lane r of the page meets the condition. Lanes without a row give any bit.
  uint16_t evaluate(const Slab& slab, int32_t page) const;

 private:
  struct Step {
    WhereOp op;
    ColumnKind kind;
    int column;
    int64_t begin;
    int64_t end;
  };

  uint16_t match(const Step& step, const int64_t* cells) const;

  std::vector<Step> steps_;
  std::vector<int64_t> constants_;
};

}  // namespace memcore
