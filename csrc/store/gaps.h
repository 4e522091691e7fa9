#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace memcore {

// The ids below a bank's counter that no row ever had: disjoint ranges, ascending, shared by forks
// until one changes. Empty unless the caller chose ids that skip some.
class Gaps {
 public:
  bool contains(int64_t id) const;

  // The gaps once rows have `ids` too: ascending and distinct, each in a gap or at least next_id.
  Gaps after(const std::vector<int64_t>& ids, int64_t next_id) const;

  int64_t nbytes() const {
    return ranges_ ? static_cast<int64_t>(ranges_->capacity() * sizeof(Range)) : 0;
  }

 private:
  struct Range {
    int64_t begin;
    int64_t end;
  };
  std::shared_ptr<const std::vector<Range>> ranges_;
};

}  // namespace memcore
