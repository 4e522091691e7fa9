#pragma once

#include <cstdint>

#include "columns.h"
#include "exact.h"
#include "pages.h"
#include "row_source.h"

namespace memcore {

// The columns that scale and bias come from, or -1.
struct WeightColumns {
  int scale = -1;
  int bias = -1;
};

// The number in a numeric cell of a slot, rounded to float32; a null, or no column, is `missing`.
float cell_number(const Pages& pages, int column, int64_t slot, float missing);

// The rows of a bank, while the lock of its pages is held.
class BankRows final : public RowSource {
 public:
  BankRows() = default;
  BankRows(const Pages& pages, const BankView& bank, WeightColumns weights)
      : pages_(&pages), slab_(&pages.slab()), bank_(bank), weights_(weights) {}

  const BankView& bank() const { return bank_; }
  int64_t n_blocks() const { return (bank_.n_rows + kBlockRows - 1) / kBlockRows; }

  int64_t n_rows() const override { return bank_.n_rows; }
  int64_t dim() const override { return slab_->dim(); }
  DType dtype() const override { return slab_->dtype(); }
  const uint8_t* block(int64_t b) const override { return slab_->block(bank_.pages[b]); }
  void rows(const int64_t* row, int64_t n, const void** out) const override;
  void ids(const int64_t* row, int64_t n, int64_t* out) const override;
  void norms(const int64_t* row, int64_t n, const void* const* rows, float* out) const override;
  void prefetch(const int64_t* row, int64_t n) const override;
  bool is_weighted() const override { return weights_.scale >= 0 || weights_.bias >= 0; }
  void weights(const int64_t* row, int64_t n, float* scale, float* bias) const override;

 private:
  const Pages* pages_ = nullptr;
  const Slab* slab_ = nullptr;
  BankView bank_{};
  WeightColumns weights_;
};

}  // namespace memcore
