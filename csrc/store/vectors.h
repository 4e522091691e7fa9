#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "slab.h"
#include "threads.h"

namespace memcore {

// Vectors as the caller gave them: any strides, in bytes, any alignment.
struct VectorsView {
  const uint8_t* data;
  DType dtype;
  int64_t n_rows;
  int64_t dim;
  int64_t row_stride;
  int64_t column_stride;
};

// The vectors of one call, checked and in the slab's dtype: what the data plane writes.
class IncomingVectors {
 public:
  // Throws kInput in the name of op for the first row that is not finite or whose canonical dot
  // with itself passes 1e36.
  IncomingVectors(const VectorsView& view, const Slab& slab, const char* op, Interrupt& interrupt);

  // slots[i] takes row i; slots below 0 are left out. order (n,) says which rows to write together.
  // Their shadow follows later: see Slab::mark_stale.
  void write(const std::vector<int64_t>& slots, const std::vector<int64_t>& order) const noexcept;
  // The same, to slots that nobody reads yet. What is written when it is stopped stays.
  void write(const std::vector<int64_t>& slots, const std::vector<int64_t>& order,
             Interrupt& interrupt) const;

 private:
  void convert(const VectorsView& view, Interrupt& interrupt);
  void check(const char* op, Interrupt& interrupt);
  void write_some(const std::vector<int64_t>& slots, const std::vector<int64_t>& order,
                  int64_t begin, int64_t end) const noexcept;
  const uint8_t* row(int64_t i) const { return data_ + i * row_stride_; }

  const Slab& slab_;
  int64_t n_rows_;
  const uint8_t* data_;
  int64_t row_stride_;
  std::unique_ptr<uint8_t[]> converted_;
};

}  // namespace memcore
