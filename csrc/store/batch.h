#pragma once

#include <cstdint>
#include <vector>

#include "banks.h"
#include "threads.h"

namespace memcore {

// Handles or ids as the caller gave them. A single handle stands for all rows.
struct Int64View {
  const int64_t* data = nullptr;
  int64_t size = 0;
  int64_t stride = 1;  // in items; 0 repeats the first
  int64_t operator[](int64_t i) const { return data[i * stride]; }
};

// The rows of one call, grouped by bank, banks in order of their first row.
struct Batch {
  std::vector<int32_t> banks;   // (n_groups,)
  std::vector<int64_t> begins;  // (n_groups + 1,) into order
  std::vector<int64_t> order;   // (n,) positions in the call, ascending within a group

  int64_t n_groups() const { return static_cast<int64_t>(banks.size()); }
};

// Throws kNotFound for the first handle that names no bank.
Batch group_by_bank(Banks& banks, const Int64View& handles, int64_t n, const char* op);

// The index of the bank behind handles[position]; throws kNotFound in the name of op.
int32_t find_bank(const Banks& banks, const Int64View& handles, int64_t position, const char* op);

// The first position, in order of the call, whose bank an earlier position names too; or -1.
int64_t first_repeated_bank(const Batch& batch);

// The first position, in order of the call, whose id an earlier position of the same bank has too;
// or -1.
int64_t first_repeated(const Batch& batch, const Int64View& ids, Interrupt& interrupt);

// Throws kNotFound for the first of n ids whose row is -1.
void check_found(const int64_t* rows, int64_t n, const Int64View& ids, const char* op);

}  // namespace memcore
