#include "gaps.h"

#include <algorithm>

namespace memcore {

bool Gaps::contains(int64_t id) const {
  if (!ranges_) return false;
  const auto after =
      std::upper_bound(ranges_->begin(), ranges_->end(), id,
                       [](int64_t wanted, const Range& range) { return wanted < range.begin; });
  return after != ranges_->begin() && id < std::prev(after)->end;
}

Gaps Gaps::after(const std::vector<int64_t>& ids, int64_t next_id) const {
  // The common case: every id is the next one.
  if (!ranges_ && ids.back() - next_id == static_cast<int64_t>(ids.size()) - 1) return {};

  std::vector<Range> left;
  const size_t n_ranges = ranges_ ? ranges_->size() : 0;
  left.reserve(n_ranges + ids.size() + 1);
  auto id = ids.begin();
  // What lies past the counter is one more range, open at the end; it closes before the largest id.
  for (size_t i = 0; i <= n_ranges; ++i) {
    Range range = i < n_ranges ? (*ranges_)[i] : Range{next_id, std::max(next_id, ids.back())};
    for (; id != ids.end() && *id < range.end; ++id) {
      if (*id > range.begin) left.push_back({range.begin, *id});
      range.begin = *id + 1;
    }
    if (range.begin < range.end) left.push_back(range);
  }
  left.shrink_to_fit();
  Gaps gaps;
  if (!left.empty()) gaps.ranges_ = std::make_shared<const std::vector<Range>>(std::move(left));
  return gaps;
}

}  // namespace memcore
