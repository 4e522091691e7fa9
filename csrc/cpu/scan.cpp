#include "scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace memcore {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kDenseRows = Scan::kDenseBlocks * kBlockRows;

// A block's final scores lie in [scale * lower + bias, scale * upper + bias], or the other way
// round.
void apply_weights(const float* scale, const float* bias, float* lower, float* upper) {
  for (int r = 0; r < kBlockRows; ++r) {
    const double a = static_cast<double>(scale[r]) * lower[r],
                 b = static_cast<double>(scale[r]) * upper[r];
    const double low = std::min(a, b) + bias[r], high = std::max(a, b) + bias[r];
    // The final score is rounded twice, each time by at most half a unit.
    const double slack =
        (std::max(std::abs(a), std::abs(b)) + std::abs(static_cast<double>(bias[r]))) * 0x1p-22 +
        0x1p-148;
    // What an infinity or NaN makes of the bounds says nothing.
    const bool is_known =
        a == a && b == b && low - slack == low - slack && high + slack == high + slack;
    lower[r] = is_known ? static_cast<float>(low - slack) : -kInfinity;
    upper[r] = is_known ? static_cast<float>(high + slack) : kInfinity;
    // -inf is for lanes without a row.
    if (upper[r] == -kInfinity) upper[r] = std::numeric_limits<float>::lowest();
  }
}

}  // namespace

void Scan::aim(int64_t i) {
  aimed_[i] = queries_->aim(collectors_[i]->query(), collectors_[i]->threshold());
}

void BlockGroup::add(const RowSource& source, int64_t number, const uint8_t* block) {
  const int64_t n_lanes = std::min<int64_t>(kBlockRows, source.n_rows() - number * kBlockRows);
  blocks[n_blocks] = block;
  index[n_blocks] = number;
  live[n_blocks] = static_cast<uint16_t>((1u << n_lanes) - 1);
  ++n_blocks;
}

void Scan::begin(const Queries& queries, Collector* const* collectors, int64_t n,
                 bool is_weighted) {
  queries_ = &queries;
  collectors_ = collectors;
  n_ = n;
  is_weighted_ = is_weighted;
  aimed_.resize(n);
  everyone_.resize(n);
  std::iota(everyone_.begin(), everyone_.end(), 0);
  for (int64_t i = 0; i < n; ++i) aim(i);
  masks_.resize(n * kScanBlocks);
  dots_.resize(n * kScanBlocks * kBlockRows);
  measured_.assign(n, 0);
}

void Scan::bounds(int64_t i, const uint8_t* block, int64_t index, const int32_t* dots, float* lower,
                  float* upper) const {
  kernels().bounds(block, queries_->dim(), dots, queries_->bound(collectors_[i]->query()), lower,
                   upper);
  if (!is_weighted_) return;
  const RowSource& source = collectors_[i]->source();
  int64_t rows[kBlockRows];
  float scale[kBlockRows], bias[kBlockRows];
  const int64_t n = std::min<int64_t>(kBlockRows, source.n_rows() - index * kBlockRows);
  for (int64_t r = 0; r < kBlockRows; ++r) {
    rows[r] = index * kBlockRows + std::min(r, n - 1);
  }
  source.weights(rows, kBlockRows, scale, bias);
  apply_weights(scale, bias, lower, upper);
}

const ScanQuery* Scan::aimed(const int32_t* subset, int64_t n_subset) {
  if (n_subset == n_) return aimed_.data();
  subset_.resize(n_subset);
  for (int64_t j = 0; j < n_subset; ++j) subset_[j] = aimed_[subset[j]];
  return subset_.data();
}

void Scan::visit(const BlockGroup& group, const int32_t* subset, int64_t n_subset) {
  const int64_t n_blocks = group.n_blocks;
  // With scale and bias every row passes: they are only in the bounds that follow.
  if (is_weighted_) std::fill_n(masks_.begin(), n_subset * n_blocks, uint16_t{0xffff});
  kernels().scan(group.blocks, group.has_next ? group.next : nullptr, n_blocks, queries_->dim(),
                 aimed(subset, n_subset), n_subset, is_weighted_ ? nullptr : masks_.data(),
                 dots_.data());
  const bool is_whole = n_blocks == kScanBlocks;
  for (int64_t j = 0; j < n_subset; ++j) {
    const uint16_t* masks = masks_.data() + j * n_blocks;
    if (is_whole) {
      uint64_t all;
      std::memcpy(&all, masks, sizeof(all));
      if (all == 0) continue;
    }
    look(subset[j], group, masks, dots_.data() + j * n_blocks * kBlockRows);
  }
}

void Scan::visit_range(const RowSource& source, int64_t first, int64_t n, const uint16_t* allowed,
                       Interrupt& interrupt) {
  // One group ahead, so that each group knows what to fetch for the next.
  BlockGroup group, next;
  int64_t b = 0;
  const auto fill = [&](BlockGroup& to) {
    to.n_blocks = 0;
    for (; b < n && to.n_blocks < kScanBlocks; ++b) {
      if (allowed == nullptr || allowed[b] != 0) to.add(source, first + b, source.block(first + b));
    }
  };
  // The clock is not for every group: only after so many products.
  constexpr int64_t kPolledProducts = int64_t{1} << 22;
  const int64_t products = n_ * queries_->dim() * kScanBlocks * kBlockRows;
  int64_t since = 0;
  fill(group);
  while (group.n_blocks > 0) {
    fill(next);
    group.has_next = next.n_blocks == group.n_blocks;
    if (group.has_next) std::copy(next.blocks, next.blocks + next.n_blocks, group.next);
    visit(group, everyone(), n_);
    since += products;
    if (since >= kPolledProducts) {
      interrupt.poll();
      since = 0;
    }
    group = next;
  }
}

void Scan::look(int64_t i, const BlockGroup& group, const uint16_t* masks, const int32_t* dots) {
  Collector& collector = *collectors_[i];
  const float before = collector.threshold();
  float lower[kBlockRows], upper[kBlockRows];
  for (int64_t b = 0; b < group.n_blocks; ++b) {
    uint32_t mask = masks[b] & group.live[b];
    if (collector.is_masked()) mask &= collector.allowed(group.index[b]);
    if (mask == 0) continue;
    bounds(i, group.blocks[b], group.index[b], dots + b * kBlockRows, lower, upper);
    for (; mask != 0; mask &= mask - 1) {
      const int lane = __builtin_ctz(mask);
      collector.offer(group.index[b] * kBlockRows + lane, lower[lane], upper[lane]);
    }
  }
  if (collector.threshold() != before) aim(i);
}

void Scan::measure(const BlockGroup& group, const int32_t* subset, int64_t n_subset) {
  if (lower_.size() < static_cast<size_t>(n_ * kDenseRows)) {
    lower_.resize(n_ * kDenseRows);
    upper_.resize(n_ * kDenseRows);
    measured_index_.resize(n_ * kDenseBlocks);
  }
  kernels().scan(group.blocks, group.has_next ? group.next : nullptr, group.n_blocks,
                 queries_->dim(), aimed(subset, n_subset), n_subset, nullptr, dots_.data());
  for (int64_t j = 0; j < n_subset; ++j) {
    const int64_t i = subset[j];
    const Collector& collector = *collectors_[i];
    for (int64_t b = 0; b < group.n_blocks; ++b) {
      const int64_t at = i * kDenseRows + measured_[i] * kBlockRows;
      float* lower = lower_.data() + at;
      float* upper = upper_.data() + at;
      bounds(i, group.blocks[b], group.index[b],
             dots_.data() + (j * group.n_blocks + b) * kBlockRows, lower, upper);
      uint32_t out = ~uint32_t{group.live[b]} & 0xffff;
      if (collector.is_masked()) out |= ~collector.allowed(group.index[b]) & 0xffff;
      for (; out != 0; out &= out - 1) {
        const int lane = __builtin_ctz(out);
        lower[lane] = upper[lane] = -kInfinity;
      }
      measured_index_[i * kDenseBlocks + measured_[i]] = group.index[b];
      ++measured_[i];
    }
  }
}

void Scan::release_bounds() {
  // `lower_ = {}` would keep the memory.
  lower_ = std::vector<float>();
  upper_ = std::vector<float>();
}

void Scan::settle(bool offers) {
  for (int64_t i = 0; i < n_; ++i) {
    Collector& collector = *collectors_[i];
    const int64_t n_blocks = measured_[i];
    measured_[i] = 0;
    if (n_blocks == 0) continue;
    float* lower = lower_.data() + i * kDenseRows;
    const float* upper = upper_.data() + i * kDenseRows;
    const float most = collector.range().max;
    // A row too good to be returned may not raise the threshold.
    for (int64_t r = 0; most < kInfinity && r < n_blocks * kBlockRows; ++r) {
      if (!(upper[r] <= most)) lower[r] = -kInfinity;
    }

    // The best of each lane are 16 different rows: for small k, a threshold without a selection.
    values_.resize(kBlockRows);
    kernels().lane_tops(lower, n_blocks, values_.data());
    collector.raise(values_.data(), kBlockRows);
    reached_.resize(n_blocks * kBlockRows);
    const int64_t n = kernels().at_least(upper, n_blocks, collector.threshold(), reached_.data());
    values_.resize((n + kBlockRows - 1) / kBlockRows * kBlockRows);
    for (int64_t j = 0; j < n; ++j) values_[j] = lower[reached_[j]];
    std::fill(values_.begin() + n, values_.end(), -kInfinity);
    collector.raise(values_.data(), static_cast<int64_t>(values_.size()));
    if (!offers) {
      aim(i);
      continue;
    }
    for (int64_t j = 0; j < n; ++j) {
      const int64_t r = reached_[j];
      // Lanes that hold no row, or none to be returned, have an upper bound of -inf.
      if (upper[r] < collector.threshold() || upper[r] == -kInfinity) continue;
      collector.keep(
          measured_index_[i * kDenseBlocks + r / kBlockRows] * kBlockRows + r % kBlockRows,
          upper[r]);
    }
  }
}

}  // namespace memcore
