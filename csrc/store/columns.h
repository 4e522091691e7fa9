#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace memcore {

// A cell is 8 bytes: an integer, the bits of a float64, or the number of an entry of the caller's
// table.
enum class ColumnKind : int32_t { kInt64 = 0, kFloat64 = 1, kBool = 2, kRef = 3 };

ColumnKind column_kind(const std::string& name);

inline constexpr int64_t kNullRef = -1;
inline constexpr int64_t kNullFloat = 0x7ff8000000000000;  // any NaN is null

constexpr int64_t null_cell(ColumnKind kind) {
  return kind == ColumnKind::kRef       ? kNullRef
         : kind == ColumnKind::kFloat64 ? kNullFloat
                                        : std::numeric_limits<int64_t>::min();
}

// How many cells of a ref column name each number, and which numbers fell to zero.
class RefCounts {
 public:
  // Makes room for numbers below n, so that nothing below can fail.
  void reserve(int64_t n);

  void acquire(int64_t number) noexcept {
    if (number >= 0) ++counts_[number];
  }
  void release(int64_t number) noexcept;
  bool holds(int64_t number) const {
    return number >= 0 && number < n_numbers() && counts_[number] > 0;
  }

  // The numbers that fell to zero since the last call and are still there, ascending.
  std::vector<int64_t> take_dead();

  int64_t n_numbers() const { return static_cast<int64_t>(counts_.size()); }
  int64_t nbytes() const;

 private:
  std::vector<int64_t> counts_;
  std::vector<bool> listed_;
  std::vector<int64_t> fallen_;
};

}  // namespace memcore
