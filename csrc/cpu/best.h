#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace memcore {

struct Hit {
  float score;
  int64_t id;
};

// Score descending, then id ascending.
inline bool is_better(const Hit& a, const Hit& b) {
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}

// The k best of the hits offered. Appends, and selects when the buffer is full: a constant time per
// hit for any k.
class Best {
 public:
  explicit Best(int64_t k = 0) { reset(k); }

  void reset(int64_t k) {
    k_ = k;
    hits_.clear();
    hits_.reserve(std::min<int64_t>(2 * k, kReserved) + kSpare);
    has_worst_ = false;
  }

  // The score that a hit must reach to matter still.
  float threshold() const {
    return has_worst_ ? worst_.score : -std::numeric_limits<float>::infinity();
  }

  void offer(float score, int64_t id) {
    const Hit hit{score, id};
    if (has_worst_ && !is_better(hit, worst_)) return;
    hits_.push_back(hit);
    if (static_cast<int64_t>(hits_.size()) >= 2 * k_ + kSpare) select();
  }

  // Drops all but the k best and learns the threshold from them.
  void select() {
    if (static_cast<int64_t>(hits_.size()) < k_ || k_ == 0) return;
    std::nth_element(hits_.begin(), hits_.begin() + (k_ - 1), hits_.end(), is_better);
    hits_.resize(k_);
    worst_ = hits_.back();
    has_worst_ = true;
  }

  const std::vector<Hit>& hits() const { return hits_; }

  // The k best, best first, then padding.
  void write(float* scores, int64_t* ids, int64_t width) {
    select();
    std::sort(hits_.begin(), hits_.end(), is_better);
    const int64_t n = std::min<int64_t>({k_, width, static_cast<int64_t>(hits_.size())});
    for (int64_t i = 0; i < n; ++i) {
      scores[i] = hits_[i].score;
      ids[i] = hits_[i].id;
    }
    for (int64_t i = n; i < width; ++i) {
      scores[i] = -std::numeric_limits<float>::infinity();
      ids[i] = -1;
    }
  }

 private:
  // A small buffer is selected from soon, and its threshold then keeps most hits out.
  static constexpr int64_t kSpare = 16;
  static constexpr int64_t kReserved = 1024;

  int64_t k_ = 0;
  bool has_worst_ = false;
  Hit worst_{};
  std::vector<Hit> hits_;
};

}  // namespace memcore
