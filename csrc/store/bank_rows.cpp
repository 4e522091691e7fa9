#include "bank_rows.h"

#include <bit>
#include <cmath>

namespace memcore {

float cell_number(const Pages& pages, int column, int64_t slot, float missing) {
  if (column < 0) return missing;
  const int64_t cell = pages.slab().cells(column, page_of(slot))[lane_of(slot)];
  const ColumnKind kind = pages.kinds()[column];
  if (kind == ColumnKind::kFloat64) {
    const double value = std::bit_cast<double>(cell);
    return std::isnan(value) ? missing : static_cast<float>(value);
  }
  return cell == null_cell(kind) ? missing : static_cast<float>(cell);
}

void BankRows::rows(const int64_t* row, int64_t n, const void** out) const {
  const int64_t row_bytes = slab_->row_bytes();
  for (int64_t i = 0; i < n; ++i) {
    out[i] = slab_->rows(bank_.pages[row[i] / kPageRows]) + row[i] % kPageRows * row_bytes;
  }
}

void BankRows::ids(const int64_t* row, int64_t n, int64_t* out) const {
  for (int64_t i = 0; i < n; ++i)
    out[i] = slab_->ids(bank_.pages[row[i] / kPageRows])[row[i] % kPageRows];
}

void BankRows::norms(const int64_t* row, int64_t n, const void* const*, float* out) const {
  const int64_t offset = block_codes_bytes(slab_->dim());
  for (int64_t i = 0; i < n; ++i) {
    const auto* meta = reinterpret_cast<const float*>(block(row[i] / kPageRows) + offset);
    out[i] = meta[2 * kBlockRows + row[i] % kPageRows];
  }
}

void BankRows::prefetch(const int64_t* row, int64_t n) const {
  const int64_t row_bytes = slab_->row_bytes();
  for (int64_t i = 0; i < n; ++i) {
    const int32_t page = bank_.pages[row[i] / kPageRows];
    const int64_t lane = row[i] % kPageRows;
    prefetch_row(slab_->rows(page) + lane * row_bytes, row_bytes);
    __builtin_prefetch(slab_->ids(page) + lane);
  }
}

void BankRows::weights(const int64_t* row, int64_t n, float* scale, float* bias) const {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t slot = slot_of(bank_.pages[row[i] / kPageRows], row[i] % kPageRows);
    scale[i] = cell_number(*pages_, weights_.scale, slot, 1.0f);
    bias[i] = cell_number(*pages_, weights_.bias, slot, 0.0f);
  }
}

}  // namespace memcore
