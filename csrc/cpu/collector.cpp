#include <algorithm>
#include <functional>
#include <limits>

#include "scan.h"

namespace memcore {

void Collector::reset(const Queries& queries, int64_t query, const RowSource& source, int64_t k,
                      ScoreRange range, const uint16_t* allowed) {
  queries_ = &queries;
  source_ = &source;
  query_ = query;
  k_ = k;
  range_ = range;
  set_allowed(allowed, 0);
  threshold_ = range.min;
  lowers_.clear();
  candidates_.clear();
  best_.reset(k);
}

void Collector::offer(int64_t row, float lower, float upper) {
  // Written so that a NaN bound keeps the row.
  if (upper < threshold_ || lower > range_.max) return;
  // Only a row that is sure to be returned, if it is good enough, may raise the threshold.
  if (lower > threshold_ && upper <= range_.max) {
    if (static_cast<int64_t>(lowers_.size()) < k_) {
      lowers_.push_back(lower);
      std::push_heap(lowers_.begin(), lowers_.end(), std::greater<>());
    } else if (lower > lowers_.front()) {
      std::pop_heap(lowers_.begin(), lowers_.end(), std::greater<>());
      lowers_.back() = lower;
      std::push_heap(lowers_.begin(), lowers_.end(), std::greater<>());
    }
    if (static_cast<int64_t>(lowers_.size()) == k_)
      threshold_ = std::max(threshold_, lowers_.front());
  }
  candidates_.push_back({row, upper});
  if (static_cast<int64_t>(candidates_.size()) >= std::max<int64_t>(512, 4 * k_)) make_room();
}

void Collector::raise(float* lowers, int64_t n) {
  if (n < k_ || k_ == 0) return;
  constexpr int64_t kSmall = 16;
  if (k_ <= kSmall && n <= 8 * kBlockRows) {
    threshold_ = std::max(threshold_, kernels().kth_largest(lowers, n / kBlockRows, k_));
    return;
  }
  std::nth_element(lowers, lowers + (k_ - 1), lowers + n, std::greater<>());
  threshold_ = std::max(threshold_, lowers[k_ - 1]);
}

void Collector::drop_below(float threshold) {
  std::erase_if(candidates_, [=](const Candidate& c) { return c.upper < threshold; });
}

void Collector::score(const Candidate* candidates, int64_t n) {
  int64_t rows[kScoreRows];
  for (int64_t begin = 0; begin < n; begin += kScoreRows) {
    const int64_t count = std::min(kScoreRows, n - begin);
    for (int64_t i = 0; i < count; ++i) rows[i] = candidates[begin + i].row;
    offer_rows(*queries_, query_, *source_, rows, count, range_, best_);
  }
}

// The buffer is full: what the threshold does not clear out is scored now, which raises the
// threshold.
void Collector::make_room() {
  drop_below(threshold_);
  if (candidates_.size() * 2 < static_cast<size_t>(std::max<int64_t>(512, 4 * k_))) return;
  score(candidates_.data(), static_cast<int64_t>(candidates_.size()));
  candidates_.clear();
  best_.select();
  threshold_ = std::max(threshold_, best_.threshold());
}

void Collector::prefetch() const {
  int64_t rows[kScoreRows];
  const int64_t n = std::min<int64_t>(kScoreRows, static_cast<int64_t>(candidates_.size()));
  for (int64_t i = 0; i < n; ++i) rows[i] = candidates_[i].row;
  source_->prefetch(rows, n);
}

void Collector::finish() {
  drop_below(threshold_);
  const int64_t n = static_cast<int64_t>(candidates_.size());
  // The k likeliest first: their scores rule out most of the others.
  const int64_t first = std::min(k_, n);
  if (first < n) {
    std::nth_element(candidates_.begin(), candidates_.begin() + first, candidates_.end(),
                     [](const Candidate& a, const Candidate& b) { return a.upper > b.upper; });
  }
  score(candidates_.data(), first);
  if (first < n) {
    best_.select();
    const float threshold = std::max(threshold_, best_.threshold());
    const auto end = std::remove_if(candidates_.begin() + first, candidates_.end(),
                                    [=](const Candidate& c) { return c.upper < threshold; });
    score(candidates_.data() + first, end - candidates_.begin() - first);
  }
  candidates_.clear();
}

}  // namespace memcore
