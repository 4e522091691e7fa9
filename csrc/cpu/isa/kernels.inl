// The bodies of the inner loops, compiled once per instruction set into one table. Nothing here may
// use the standard library: a function compiled for a newer processor must not leak into the rest
// of the program.

#include "kernels.h"
#include MEMCORE_WORDS

namespace memcore {
namespace {

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

// ---- the shadow
// ------------------------------------------------------------------------------------------------

// The smallest float32 >= value, for value >= 0.
float round_up(double value) {
  float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) < value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &nearest, 4);
    ++bits;
    __builtin_memcpy(&nearest, &bits, 4);
  }
  return nearest;
}

struct ShadowMeta {
  float scale, error, norm;
};

void store_meta(uint8_t* block, int64_t dim, int lane, ShadowMeta meta) {
  float* at = reinterpret_cast<float*>(block + block_codes_bytes(dim)) + lane;
  at[0] = meta.scale;
  at[kBlockRows] = meta.error;
  at[2 * kBlockRows] = meta.norm;
}

void store_groups(uint8_t* block, int64_t quad, int64_t n_groups, int lane,
                  const uint32_t* groups) {
  for (int64_t g = 0; g < n_groups; ++g) {
    __builtin_memcpy(block + (quad + g) * 64 + lane * 4, &groups[g], 4);
  }
}

// Codes of a row that the first pass knows nothing about, or that is zero.
void store_blank(uint8_t* block, int64_t dim, int lane) {
  const uint32_t zero = 0x80808080u;
  for (int64_t quad = 0; quad < quads(dim); ++quad) store_groups(block, quad, 1, lane, &zero);
}

float largest_component(const float* row, int64_t dim) {
  F32 largest = broadcast(0.0f);
  int64_t i = 0;
  for (; i + 16 <= dim; i += 16) largest = max(largest, abs(load(row + i)));
  if (i < dim) largest = max(largest, abs(load_tail<Float32Row>(row + i, dim - i)));
  return max_lane(largest);
}

// Below 2^-60 the products of the bounds could underflow.
constexpr float kSmallest = 0x1p-60f;

// Rounds row / step to codes and hands each 16 of them to `take` as four groups. Returns a bound on
// the norm of what the codes leave out: docs/score.md, "The certificate".
template <class Take>
double quantize(const float* row, int64_t dim, float step, float inverse, float norm, Take&& take) {
  const F32 steps = broadcast(step), inverses = broadcast(inverse), shift = broadcast(0x1.8p23f);
  F32 residual = broadcast(0.0f);
  uint32_t groups[4];
  for (int64_t i = 0; i < dim; i += 16) {
    const F32 x = i + 16 <= dim ? load(row + i) : load_tail<Float32Row>(row + i, dim - i);
    const F32 scaled = mul(x, inverses);
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer, as pack_codes does.
    const F32 code = sub(add(scaled, shift), shift);
    const F32 left = sub(x, mul(code, steps));
    residual = add(residual, mul(left, left));
    pack_codes(scaled, groups);
    const int64_t quad = i / 4;
    take(quad, quads(dim) - quad < 4 ? quads(dim) - quad : 4, groups);
  }
  const double n = static_cast<double>(dim);
  return __builtin_sqrt(static_cast<double>(fold(residual))) * (1 + (n / 16 + 8) * 0x1p-24) +
         0x1p-21 * static_cast<double>(norm) + __builtin_sqrt(n) * 0x1p-74;
}

void shadow_row(const float* row, int64_t dim, float square, uint8_t* block, int lane) {
  const float kInfinity = __builtin_inff();
  // Written so that NaN takes this branch.
  if (!(square <= 1e36f)) {
    store_blank(block, dim, lane);
    return store_meta(block, dim, lane, {0.0f, kInfinity, 0.0f});
  }
  const float top = largest_component(row, dim);
  const float norm = __builtin_sqrtf(square);
  // Of the rows too small for the bounds, only a true zero row keeps a finite error.
  if (top < kSmallest) {
    store_blank(block, dim, lane);
    return store_meta(block, dim, lane, {0.0f, top == 0.0f ? 0.0f : kInfinity, norm});
  }
  const float scale = top / 127.0f;
  const double error = quantize(row, dim, scale, 127.0f / top, norm,
                                [=](int64_t quad, int64_t n_groups, const uint32_t* groups) {
                                  store_groups(block, quad, n_groups, lane, groups);
                                });
  store_meta(block, dim, lane, {scale, round_up(error), norm});
}

bool quantize_query(const float* query, int64_t dim, float norm, int8_t* codes, float* scale,
                    float* error, int32_t* sum) {
  const float top = largest_component(query, dim);
  if (top < kSmallest) return false;
  const float limit = static_cast<float>(kQueryLimit);
  int32_t total = 0;
  *scale = top / limit;
  const double left = quantize(query, dim, *scale, limit / top, norm,
                               [&](int64_t quad, int64_t n_groups, const uint32_t* groups) {
                                 for (int64_t g = 0; g < n_groups; ++g) {
                                   // Queries are signed: the offset of 128 comes off again.
                                   const uint32_t group = groups[g] ^ 0x80808080u;
                                   __builtin_memcpy(codes + 4 * (quad + g), &group, 4);
                                   for (int j = 0; j < 4; ++j) total += codes[4 * (quad + g) + j];
                                 }
                               });
  *error = round_up(left);
  *sum = total;
  return true;
}

// ---- the first pass
// --------------------------------------------------------------------------------------------

// The rows of a block that a query cannot rule out, given their int8 dot products.
uint32_t kept_rows(const float* meta, const I32& dots, const ScanQuery& query) {
  const F32 scale = load(meta), error = load(meta + kBlockRows), norm = load(meta + 2 * kBlockRows);
  F32 margin = mul(mul(to_float(dots), scale), broadcast(query.slope));
  F32 rest = add(mul(error, broadcast(query.error_weight)), broadcast(query.offset));
  rest = add(rest, mul(norm, broadcast(query.norm_weight)));
  if (query.square_weight != 0.0f)
    rest = add(rest, mul(mul(norm, norm), broadcast(query.square_weight)));
  return not_negative(add(margin, rest));
}

// The extremes of a block's rows: what its best row could be at most.
struct BlockLimits {
  float inverse_scale, error, norm, least_norm;
};

BlockLimits block_limits(const uint8_t* block, int64_t dim) {
  const float* meta = reinterpret_cast<const float*>(block + block_codes_bytes(dim));
  const F32 norm = load(meta + 2 * kBlockRows);
  return {1.0f / max_lane(load(meta)), max_lane(load(meta + kBlockRows)), max_lane(norm),
          -max_lane(sub(broadcast(0.0f), norm))};
}

// No row of the block whose int8 dot product is at most this can be kept. One integer comparison
// then decides for most blocks.
int32_t ruled_out_dot(const BlockLimits& block, const ScanQuery& query) {
  float rest = query.error_weight * block.error + query.offset;
  rest += query.norm_weight * (query.norm_weight >= 0.0f ? block.norm : block.least_norm);
  rest += query.square_weight * (block.least_norm * block.least_norm);
  // Written so that NaN rules out nothing.
  if (!(rest < 0.0f)) return INT32_MIN;
  // Rounded down by more than the roundings above can have raised it.
  const float least = -rest * (block.inverse_scale * query.inverse_slope) * (1.0f - 0x1p-16f);
  return least < 0x1p30f ? static_cast<int32_t>(least) - 1 : INT32_MAX;
}

template <int kValue>
struct Count {
  static constexpr int value = kValue;
};

// Inlined into its callers, the loop would lose registers to them.
template <int kQueries, int kBlocks, bool kFetch>
[[gnu::noinline]] void scan_tile(const uint8_t* const* blocks, const uint8_t* const* next,
                                 [[maybe_unused]] const BlockLimits* limits, int64_t n_blocks,
                                 int64_t dim, const ScanQuery* queries, uint16_t* masks,
                                 int32_t* dots) {
  // Sums and rows are named by register, not by word: a word of several registers would be kept in
  // memory.
  constexpr int kRegisters = kBlocks * kWordRegisters;
  SumRegister sum[kQueries][kRegisters];
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 16
    for (int r = 0; r < kRegisters; ++r) sum[q][r] = start_sum(queries[q].start);
  }
  const int64_t n_quads = quads(dim);
  for (int64_t quad = 0; quad < n_quads; ++quad) {
    CodesRegister rows[kRegisters];
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
      if constexpr (kFetch) __builtin_prefetch(next[b] + 64 * quad);
#pragma GCC unroll 4
      for (int r = 0; r < kWordRegisters; ++r) {
        rows[b * kWordRegisters + r] =
            load_codes(blocks[b] + 64 * quad + r * sizeof(CodesRegister));
      }
    }
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) {
      const QueryCodes codes = broadcast_codes(queries[q].codes + 4 * quad);
#pragma GCC unroll 16
      for (int r = 0; r < kRegisters; ++r) dot_codes(sum[q][r], rows[r], codes);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
    uint32_t any = 0;
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
      const SumRegister* sums = &sum[q][b * kWordRegisters];
      uint32_t mask = 0;
      // In the small tiles the test would cost the loop its registers.
      bool is_open = true;
      if constexpr (kQueries >= 4 && !kFetch) {
        is_open = limits == nullptr || any_above(sums, ruled_out_dot(limits[b], queries[q]));
      }
      if (is_open) {
        const float* meta = reinterpret_cast<const float*>(blocks[b] + block_codes_bytes(dim));
        mask = kept_rows(meta, join(sums), queries[q]);
      }
      masks[q * n_blocks + b] = static_cast<uint16_t>(mask);
      any |= mask;
    }
    if (any != 0) {
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) {
        store_int(dots + (q * n_blocks + b) * kBlockRows, join(&sum[q][b * kWordRegisters]));
      }
    }
  }
}

template <int kQueries, bool kFetch>
void scan_queries(const uint8_t* const* blocks, const uint8_t* const* next,
                  const BlockLimits* limits, int64_t n_blocks, int64_t dim,
                  const ScanQuery* queries, uint16_t* masks, int32_t* dots) {
  constexpr int kBlocks = tile_blocks(kQueries);
  int64_t b = 0;
  for (; b + kBlocks <= n_blocks; b += kBlocks) {
    scan_tile<kQueries, kBlocks, kFetch>(blocks + b, next + b,
                                         limits == nullptr ? nullptr : limits + b, n_blocks, dim,
                                         queries, masks + b, dots + b * kBlockRows);
  }
  for (; b < n_blocks; ++b) {
    scan_tile<kQueries, 1, kFetch>(blocks + b, next + b, limits == nullptr ? nullptr : limits + b,
                                   n_blocks, dim, queries, masks + b, dots + b * kBlockRows);
  }
}

void scan(const uint8_t* const* blocks, const uint8_t* const* next, int64_t n_blocks, int64_t dim,
          const ScanQuery* queries, int64_t n_queries, uint16_t* masks, int32_t* dots) {
  // Worth their making from a few queries on.
  BlockLimits block_limits_of[kScanBlocks];
  const BlockLimits* limits = nullptr;
  if (n_queries >= 8) {
    for (int64_t b = 0; b < n_blocks; ++b) block_limits_of[b] = block_limits(blocks[b], dim);
    limits = block_limits_of;
  }
  const uint8_t* const* fetched = next == nullptr ? blocks : next;
  int64_t q = 0;
  const auto run = [&](auto count, auto fetch) {
    constexpr int kQueries = decltype(count)::value;
    scan_queries<kQueries, decltype(fetch)::value != 0>(blocks, fetched, limits, n_blocks, dim,
                                                        queries + q, masks + q * n_blocks,
                                                        dots + q * n_blocks * kBlockRows);
    q += kQueries;
  };
  // The first tile of queries asks for the next blocks, and is a small one: their pointers cost
  // registers.
  if (next != nullptr) {
    if (n_queries >= 4 && kTileQueries >= 4) {
      if constexpr (kTileQueries >= 4) run(Count<4>{}, Count<1>{});
    } else if (n_queries >= 2) {
      run(Count<2>{}, Count<1>{});
    } else {
      run(Count<1>{}, Count<1>{});
    }
  }
  while (n_queries - q >= kTileQueries) run(Count<kTileQueries>{}, Count<0>{});
  if constexpr (kTileQueries > 4) {
    if (n_queries - q >= 4) run(Count<4>{}, Count<0>{});
  }
  if (n_queries - q >= 2) run(Count<2>{}, Count<0>{});
  if (n_queries - q >= 1) run(Count<1>{}, Count<0>{});
}

int64_t at_least(const float* values, int64_t n_blocks, float threshold, int32_t* out) {
  const F32 least = broadcast(threshold);
  int64_t n = 0;
  for (int64_t b = 0; b < n_blocks; ++b) {
    // An infinite value at an infinite threshold gives NaN, which counts.
    uint32_t mask = not_negative(sub(load(values + b * kBlockRows), least));
    for (; mask != 0; mask &= mask - 1)
      out[n++] = static_cast<int32_t>(b * kBlockRows + __builtin_ctz(mask));
  }
  return n;
}

void bounds(const uint8_t* block, int64_t dim, const int32_t* dots, const BoundQuery& query,
            float* lower, float* upper) {
  const float* meta = reinterpret_cast<const float*>(block + block_codes_bytes(dim));
  const F32 scale = load(meta), error = load(meta + kBlockRows), norm = load(meta + 2 * kBlockRows);
  F32 estimate = mul(mul(to_float(load_int(dots)), scale), broadcast(query.slope));
  F32 bound =
      add(mul(error, broadcast(query.error_weight)), mul(norm, broadcast(query.norm_weight)));
  bound = add(bound, broadcast(query.underflow));
  if (query.metric == Metric::kCosine) {
    // A zero row's score is exactly 0, which the underflow term over the smallest normal number
    // still contains.
    const F32 product = max(mul(broadcast(query.norm), norm), broadcast(0x1p-126f));
    estimate = div(estimate, product);
    bound = div(bound, product);
  } else if (query.metric == Metric::kL2) {
    const F32 both = add(broadcast(query.norm), norm);
    const F32 squares = add(mul(norm, norm), broadcast(query.norm * query.norm));
    estimate = sub(add(estimate, estimate), squares);
    bound = add(add(bound, bound), mul(broadcast(query.slack), mul(both, both)));
  }
  store(lower, sub(estimate, bound));
  store(upper, add(estimate, bound));
}

}  // namespace
}  // namespace memcore

#include "attend.inl"

namespace memcore {

// const objects are local to their file unless declared extern first.
extern const Kernels MEMCORE_KERNELS;
const Kernels MEMCORE_KERNELS = {MEMCORE_ISA_NAME, kQueryLimit, dot_rows,   l2_rows,
                                 square_rows,      widen,       shadow_row, quantize_query,
                                 at_least,         scan,        bounds,     kAttendKernels};

}  // namespace memcore
