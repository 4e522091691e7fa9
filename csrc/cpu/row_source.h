#pragma once

#include <cstdint>

#include "dtype.h"

namespace memcore {

// Rows that a search visits: keys of an array, or a bank's pages. The calls take many rows at a
// time, so that a virtual call is nothing beside the work on them.
class RowSource {
 public:
  virtual ~RowSource() = default;

  virtual int64_t n_rows() const = 0;
  virtual int64_t dim() const = 0;
  virtual DType dtype() const = 0;

  // The shadow of rows 16 b … 16 b + 15. Asked only by the first pass.
  virtual const uint8_t* block(int64_t b) const = 0;

  // The rows themselves, their ids, and their canonical norms. A pointer stays good until the next
  // call of rows on this thread.
  virtual void rows(const int64_t* row, int64_t n, const void** out) const = 0;
  virtual void ids(const int64_t* row, int64_t n, int64_t* out) const = 0;
  virtual void norms(const int64_t* row, int64_t n, const void* const* rows, float* out) const = 0;

  // Starts rows, and what ids needs, on their way into the cache.
  virtual void prefetch(const int64_t* row, int64_t n) const = 0;

  // Final score = scale * score + bias. Asked only if is_weighted().
  virtual bool is_weighted() const { return false; }
  virtual void weights(const int64_t* row, int64_t n, float* scale, float* bias) const = 0;
};

}  // namespace memcore
