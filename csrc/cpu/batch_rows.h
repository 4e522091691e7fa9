#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "dtype.h"
#include "kernels.h"

namespace memcore {

// Rows of one array for each batch: data + offsets[b] + i * row_stride is row i of batch b, its
// components side by side. Rows may be unaligned, and batches may share them.
struct BatchRows {
  const uint8_t* data = nullptr;
  DType dtype = DType::kFloat32;
  bool is_double = false;
  int64_t n_rows = 0;
  int64_t dim = 0;
  int64_t row_stride = 0;
  std::vector<int64_t> offsets;

  const uint8_t* row(int64_t batch, int64_t i) const {
    return data + offsets[batch] + i * row_stride;
  }
};

// An item for each row of each batch, or for each pair of rows: strides in bytes.
struct BatchItems {
  const uint8_t* data = nullptr;
  int64_t row_stride = 0;
  int64_t item_stride = 0;
  std::vector<int64_t> offsets;

  const uint8_t* at(int64_t batch, int64_t row) const {
    return data + offsets[batch] + row * row_stride;
  }
};

// A row as float or double, whatever it is kept as.
inline void read_row(const BatchRows& rows, int64_t batch, int64_t i, float* out) {
  kernels().widen(rows.row(batch, i), rows.dtype, rows.dim, out);
}
inline void read_row(const BatchRows& rows, int64_t batch, int64_t i, double* out) {
  std::memcpy(out, rows.row(batch, i), rows.dim * sizeof(double));
}

}  // namespace memcore
