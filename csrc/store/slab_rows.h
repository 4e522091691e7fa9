#pragma once

#include <cstdint>

#include "bank_rows.h"

namespace memcore {

// All rows of a slab, whichever banks they are in: row r is slot r, and block b is page b. Valid
// while the lock of its pages is held.
class SlabRows : public RowSource {
 public:
  SlabRows(const Pages& pages, WeightColumns weights)
      : pages_(&pages), slab_(&pages.slab()), weights_(weights) {}

  int64_t n_rows() const override { return slab_->n_pages() * kPageRows; }
  int64_t dim() const override { return slab_->dim(); }
  DType dtype() const override { return slab_->dtype(); }
  const uint8_t* block(int64_t b) const override { return slab_->block(static_cast<int32_t>(b)); }
  void rows(const int64_t* row, int64_t n, const void** out) const override;
  void ids(const int64_t* row, int64_t n, int64_t* out) const override;
  void norms(const int64_t* row, int64_t n, const void* const* rows, float* out) const override;
  void prefetch(const int64_t* row, int64_t n) const override;
  bool is_weighted() const override { return weights_.scale >= 0 || weights_.bias >= 0; }
  void weights(const int64_t* row, int64_t n, float* scale, float* bias) const override;

 private:
  const Pages* pages_;
  const Slab* slab_;
  WeightColumns weights_;
};

}  // namespace memcore
