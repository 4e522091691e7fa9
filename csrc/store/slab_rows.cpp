#include "slab_rows.h"

namespace memcore {

void SlabRows::rows(const int64_t* row, int64_t n, const void** out) const {
  for (int64_t i = 0; i < n; ++i) out[i] = slab_->row(row[i]);
}

void SlabRows::ids(const int64_t* row, int64_t n, int64_t* out) const {
  for (int64_t i = 0; i < n; ++i) out[i] = slab_->ids(page_of(row[i]))[lane_of(row[i])];
}

void SlabRows::norms(const int64_t* row, int64_t n, const void* const*, float* out) const {
  const int64_t offset = block_codes_bytes(slab_->dim());
  for (int64_t i = 0; i < n; ++i) {
    const auto* meta = reinterpret_cast<const float*>(slab_->block(page_of(row[i])) + offset);
    out[i] = meta[2 * kBlockRows + lane_of(row[i])];
  }
}

void SlabRows::prefetch(const int64_t* row, int64_t n) const {
  for (int64_t i = 0; i < n; ++i) {
    prefetch_row(slab_->row(row[i]), slab_->row_bytes());
    __builtin_prefetch(slab_->ids(page_of(row[i])) + lane_of(row[i]));
  }
}

void SlabRows::weights(const int64_t* row, int64_t n, float* scale, float* bias) const {
  for (int64_t i = 0; i < n; ++i) {
    scale[i] = cell_number(*pages_, weights_.scale, row[i], 1.0f);
    bias[i] = cell_number(*pages_, weights_.bias, row[i], 0.0f);
  }
}

}  // namespace memcore
