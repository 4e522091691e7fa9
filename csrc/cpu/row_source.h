#pragma once

#include <cstdint>

#include "dtype.h"

namespace memcore {

// Rows that a search visits: keys of an array, or a bank's pages. Row r lies in lane r % 16 of block r / 16.
// The calls take many rows at a time, so that a virtual call is nothing beside the work on them.
class RowSource {
 public:
  virtual ~RowSource() = default;

  virtual int64_t n_rows() const = 0;
  virtual int64_t dim() const = 0;
  virtual DType dtype() const = 0;

  // The shadow blocks first … first + n - 1.
  virtual void blocks(int64_t first, int64_t n, const uint8_t** out) const = 0;

  // The rows themselves, their ids, and their canonical norms.
  virtual void rows(const int64_t* row, int64_t n, const void** out) const = 0;
  virtual void ids(const int64_t* row, int64_t n, int64_t* out) const = 0;
  virtual void norms(const int64_t* row, int64_t n, float* out) const = 0;

  // The rows that a query may get: bit r of out[i] for row r of block first + i. Asked only if is_masked().
  virtual bool is_masked() const { return false; }
  virtual void allowed(int64_t query, int64_t first, int64_t n, uint16_t* out) const = 0;

  // Scale and bias of rows. Asked only if is_weighted().
  virtual bool is_weighted() const { return false; }
  virtual void weights(const int64_t* row, int64_t n, float* scale, float* bias) const = 0;
};

}  // namespace memcore
