// The bodies of the inner loops, compiled once per instruction set into one table. Nothing here may
// use the standard library: a function compiled for a newer processor must not leak into the rest
// of the program.

#include "kernels.h"
#include MEMCORE_WORDS

namespace memcore {
namespace {

// A number that a lambda gets as a constant.
template <int kValue>
struct Count {
  static constexpr int value = kValue;
};

// ---- rows as words of 16 float32
// -------------------------------------------------------------------------------

struct Float32Row {
  using Item = float;
  static F32 load16(const float* from) { return load(from); }
};
struct Float16Row {
  using Item = uint16_t;
  static F32 load16(const uint16_t* from) { return load_half(from); }
};
struct BFloat16Row {
  using Item = uint16_t;
  static F32 load16(const uint16_t* from) { return load_bfloat(from); }
};
struct Int8Row {
  using Item = int8_t;
  static F32 load16(const int8_t* from) { return load_int8(from); }
};

// The last, partial word of a row: missing components are +0.
template <class Row>
F32 load_tail(const typename Row::Item* from, int64_t n) {
  typename Row::Item padded[16] = {};
  __builtin_memcpy(padded, from, static_cast<uint64_t>(n) * sizeof(padded[0]));
  return Row::load16(padded);
}

template <class Do>
void with_row_type(DType dtype, Do&& run) {
  switch (dtype) {
    case DType::kFloat32: return run(Float32Row{});
    case DType::kFloat16: return run(Float16Row{});
    case DType::kBFloat16: return run(BFloat16Row{});
    case DType::kInt8: return run(Int8Row{});
  }
}

// ---- the canonical sums
// ----------------------------------------------------------------------------------------

struct DotTerm {
  static F32 of(const F32& q, const F32& x) { return mul(q, x); }
};
struct L2Term {
  static F32 of(const F32& q, const F32& x) {
    const F32 difference = sub(q, x);
    return mul(difference, difference);
  }
};

// Several rows at once hide the latency of the adds; each row's own order of additions never
// changes.
template <class Row, class Term, int kRows>
void sum_rows(const float* query, const void* const* rows, int64_t dim, float* sums) {
  using Item = typename Row::Item;
  F32 sum[kRows];
  for (int r = 0; r < kRows; ++r) sum[r] = broadcast(0.0f);
  int64_t i = 0;
  for (; i + 16 <= dim; i += 16) {
    const F32 q = load(query + i);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      sum[r] = add(sum[r], Term::of(q, Row::load16(static_cast<const Item*>(rows[r]) + i)));
    }
  }
  if (i < dim) {
    const F32 q = load_tail<Float32Row>(query + i, dim - i);
    for (int r = 0; r < kRows; ++r) {
      sum[r] =
          add(sum[r], Term::of(q, load_tail<Row>(static_cast<const Item*>(rows[r]) + i, dim - i)));
    }
  }
  for (int r = 0; r < kRows; ++r) sums[r] = fold(sum[r]);
}

template <class Term>
void query_rows(const float* query, const void* const* rows, DType dtype, int64_t n_rows,
                int64_t dim, float* sums) {
  with_row_type(dtype, [=](auto row) {
    int64_t r = 0;
    for (; r + 4 <= n_rows; r += 4)
      sum_rows<decltype(row), Term, 4>(query, rows + r, dim, sums + r);
    for (; r < n_rows; ++r) sum_rows<decltype(row), Term, 1>(query, rows + r, dim, sums + r);
  });
}

void dot_rows(const float* query, const void* const* rows, DType dtype, int64_t n_rows, int64_t dim,
              float* sums) {
  query_rows<DotTerm>(query, rows, dtype, n_rows, dim, sums);
}

void l2_rows(const float* query, const void* const* rows, DType dtype, int64_t n_rows, int64_t dim,
             float* sums) {
  query_rows<L2Term>(query, rows, dtype, n_rows, dim, sums);
}

template <class Row, int kRows>
void square_sums(const void* const* rows, int64_t dim, float* sums) {
  using Item = typename Row::Item;
  F32 sum[kRows];
  for (int r = 0; r < kRows; ++r) sum[r] = broadcast(0.0f);
  int64_t i = 0;
  for (; i + 16 <= dim; i += 16) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F32 x = Row::load16(static_cast<const Item*>(rows[r]) + i);
      sum[r] = add(sum[r], mul(x, x));
    }
  }
  if (i < dim) {
    for (int r = 0; r < kRows; ++r) {
      const F32 x = load_tail<Row>(static_cast<const Item*>(rows[r]) + i, dim - i);
      sum[r] = add(sum[r], mul(x, x));
    }
  }
  for (int r = 0; r < kRows; ++r) sums[r] = fold(sum[r]);
}

void square_rows(const void* const* rows, DType dtype, int64_t n_rows, int64_t dim, float* sums) {
  with_row_type(dtype, [=](auto row) {
    int64_t r = 0;
    for (; r + 4 <= n_rows; r += 4) square_sums<decltype(row), 4>(rows + r, dim, sums + r);
    for (; r < n_rows; ++r) square_sums<decltype(row), 1>(rows + r, dim, sums + r);
  });
}

void widen(const void* row, DType dtype, int64_t dim, float* out) {
  with_row_type(dtype, [=](auto type) {
    using Row = decltype(type);
    const auto* items = static_cast<const typename Row::Item*>(row);
    int64_t i = 0;
    for (; i + 16 <= dim; i += 16) store(out + i, Row::load16(items + i));
    if (i < dim) {
      float last[16];
      store(last, load_tail<Row>(items + i, dim - i));
      for (int64_t j = i; j < dim; ++j) out[j] = last[j - i];
    }
  });
}

}  // namespace
}  // namespace memcore

#include "attend.inl"
#include "scan.inl"
#include "shadow.inl"

// After the files whose functions they use.
#include "hamming.inl"
#include "lsh.inl"
#include "nearest.inl"

namespace memcore {

// const objects are local to their file unless declared extern first.
extern const Kernels MEMCORE_KERNELS;
const Kernels MEMCORE_KERNELS = {
    MEMCORE_ISA_NAME, dot_rows,       l2_rows,     square_rows,    widen, shadow_rows,
    quantize_query,   at_least,       lane_tops,   kth_largest,    scan,  bounds,
    estimate,         kAttendKernels, kLshKernels, kHammingKernels};

}  // namespace memcore
