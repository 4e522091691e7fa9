#include "columns.h"

#include <algorithm>

#include "check.h"

namespace memcore {

ColumnKind column_kind(const std::string& name) {
  if (name == "int64") return ColumnKind::kInt64;
  if (name == "float64") return ColumnKind::kFloat64;
  if (name == "bool") return ColumnKind::kBool;
  if (name == "ref") return ColumnKind::kRef;
  fail(ErrorKind::kInput, "Pages: column kind is \"", name,
       "\", should be int64, float64, bool or ref");
}

void RefCounts::reserve(int64_t n) {
  if (n <= n_numbers()) return;
  // A number is listed once at most, so fallen_ never grows past the count of numbers.
  const size_t size = std::max<size_t>(n, counts_.size() + counts_.size() / 2);
  fallen_.reserve(size);
  listed_.resize(size);
  counts_.resize(size);
}

void RefCounts::release(int64_t number) noexcept {
  if (number < 0 || --counts_[number] > 0 || listed_[number]) return;
  listed_[number] = true;
  fallen_.push_back(number);
}

std::vector<int64_t> RefCounts::take_dead() {
  std::vector<int64_t> dead;
  for (const int64_t number : fallen_) {
    if (counts_[number] == 0) dead.push_back(number);
  }
  std::sort(dead.begin(), dead.end());
  for (const int64_t number : fallen_) listed_[number] = false;
  fallen_.clear();
  return dead;
}

int64_t RefCounts::nbytes() const {
  return static_cast<int64_t>((counts_.capacity() + fallen_.capacity()) * sizeof(int64_t) +
                              listed_.capacity() / 8);
}

}  // namespace memcore
