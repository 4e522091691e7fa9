#include "array_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels.h"

namespace memcore {
namespace {

// A window's shadow stays within the second-level caches of a few cores.
constexpr int64_t kWindowBytes = int64_t{1} << 20;

// One buffer a thread for each use, so that rows() gathered for one purpose outlive those for
// another.
thread_local std::vector<uint8_t> gathered_rows;
thread_local std::vector<uint8_t> gathered_block;

void gather(const KeysView& keys, int64_t row, uint8_t* out) {
  const int64_t item = item_bytes(keys.dtype);
  const uint8_t* from = keys.data + row * keys.row_stride;
  for (int64_t i = 0; i < keys.dim; ++i)
    std::memcpy(out + i * item, from + i * keys.column_stride, item);
}

// Pointers to rows, through a copy where components do not lie side by side.
template <class RowAt>
void point(const KeysView& keys, int64_t n, RowAt&& row_at, std::vector<uint8_t>& buffer,
           const void** out) {
  const int64_t item = item_bytes(keys.dtype);
  if (keys.column_stride == item || keys.dim == 1) {
    for (int64_t i = 0; i < n; ++i) out[i] = keys.data + row_at(i) * keys.row_stride;
    return;
  }
  const int64_t row_bytes = keys.dim * item;
  if (buffer.size() < static_cast<size_t>(n * row_bytes)) buffer.resize(n * row_bytes);
  for (int64_t i = 0; i < n; ++i) {
    gather(keys, row_at(i), buffer.data() + i * row_bytes);
    out[i] = buffer.data() + i * row_bytes;
  }
}

}  // namespace

int64_t ArrayRows::block_stride() const { return (block_bytes(keys_.dim) + 63) / 64 * 64; }

int64_t ArrayRows::window_blocks() const {
  return std::clamp<int64_t>(kWindowBytes / block_bytes_ / 4 * 4, 16, 512);
}

void ArrayRows::open_window(int64_t n) {
  window_ = std::make_unique_for_overwrite<uint8_t[]>(n * block_bytes_);
}

void ArrayRows::shadow(int64_t place, int64_t b) {
  uint8_t* block = window_.get() + place * block_bytes_;
  const void* pointers[kBlockRows];
  const int64_t n = std::min<int64_t>(kBlockRows, n_ - b * kBlockRows);
  point(keys_, n, [&](int64_t i) { return begin_ + b * kBlockRows + i; }, gathered_block, pointers);
  std::fill(pointers + n, pointers + kBlockRows, nullptr);
  // Lanes without a row are read too.
  if (n < kBlockRows) std::memset(block, 0, block_bytes(keys_.dim));
  kernels().shadow_rows(pointers, keys_.dtype, keys_.dim, block, nullptr);
}

const uint8_t* ArrayRows::block(int64_t b) const { return window_block(b - window_first_); }

void ArrayRows::rows(const int64_t* row, int64_t n, const void** out) const {
  point(keys_, n, [&](int64_t i) { return begin_ + row[i]; }, gathered_rows, out);
}

void ArrayRows::ids(const int64_t* row, int64_t n, int64_t* out) const {
  for (int64_t i = 0; i < n; ++i) out[i] = begin_ + row[i];
}

void ArrayRows::norms(const int64_t*, int64_t n, const void* const* rows, float* out) const {
  kernels().square_rows(rows, keys_.dtype, n, keys_.dim, out);
  for (int64_t i = 0; i < n; ++i) out[i] = std::sqrt(out[i]);
}

void ArrayRows::prefetch(const int64_t* row, int64_t n) const {
  for (int64_t i = 0; i < n; ++i) {
    prefetch_row(keys_.data + (begin_ + row[i]) * keys_.row_stride,
                 keys_.dim * item_bytes(keys_.dtype));
  }
}

void ArrayRows::weights(const int64_t* row, int64_t n, float* scale, float* bias) const {
  for (int64_t i = 0; i < n; ++i) {
    scale[i] = scale_ == nullptr ? 1.0f : scale_[begin_ + row[i]];
    bias[i] = bias_ == nullptr ? 0.0f : bias_[begin_ + row[i]];
  }
}

}  // namespace memcore
