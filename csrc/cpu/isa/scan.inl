// The inner loops of the first pass: int8 dot products of queries and blocks, and the bounds on
// scores that follow from them.

#include "kernels.h"

namespace memcore {
namespace {

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

// Four blocks side by side.
typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
static_assert(kScanBlocks == 4);

// The extremes of the rows of each block: what its best row could be at most.
struct BlockLimits {
  Float4 inverse_scale, error, norm, least_norm;
};

BlockLimits block_limits(const uint8_t* const* blocks, int64_t n_blocks, int64_t dim) {
  BlockLimits out = {};
  Float4 scale = {1.0f, 1.0f, 1.0f, 1.0f};
  for (int64_t b = 0; b < n_blocks; ++b) {
    const float* meta = reinterpret_cast<const float*>(blocks[b] + block_codes_bytes(dim));
    const F32 norm = load(meta + 2 * kBlockRows);
    scale[b] = max_lane(load(meta));
    out.error[b] = max_lane(load(meta + kBlockRows));
    out.norm[b] = max_lane(norm);
    out.least_norm[b] = -max_lane(sub(broadcast(0.0f), norm));
  }
  out.inverse_scale = 1.0f / scale;
  return out;
}

// The int8 dot product of a query and a row is its sum over the codes as they are stored, plus
// this.
int32_t origin(const ScanQuery& query) { return kRowsAreOffset ? query.start : 0; }

// No row of a block whose int8 dot product is at most some limit can be kept. Sums that start at
// starts[block] end below zero for those, so that a sign decides for most tiles.
void aim_at_blocks(const BlockLimits& blocks, const ScanQuery& query, int32_t* starts) {
  Float4 rest = query.error_weight * blocks.error + query.offset;
  rest += query.norm_weight * (query.norm_weight >= 0.0f ? blocks.norm : blocks.least_norm);
  rest += query.square_weight * (blocks.least_norm * blocks.least_norm);
  // Rounded down by more than the roundings above can have raised it.
  Float4 least = -rest * (blocks.inverse_scale * query.inverse_slope) * (1.0f - 0x1p-16f);
  // Dot products and limits are within 2^30, so that nothing overflows. Written so that NaN rules
  // out nothing.
  const Float4 most = {0x1p30f, 0x1p30f, 0x1p30f, 0x1p30f};
  least = least < most ? least : most;
  least = rest < 0.0f ? least : -most;
  const Int4 from = origin(query) - __builtin_convertvector(least, Int4);
  __builtin_memcpy(starts, &from, sizeof(from));
}

// The float test of the sums of a tile, [queries][blocks]: masks of the rows that may matter, and
// their dot products in place of the sums.
[[gnu::noinline]] void test_tile(const uint8_t* const* blocks, int64_t n_tile_blocks,
                                 int64_t n_blocks, int64_t dim, const ScanQuery* queries,
                                 int64_t n_queries, const int32_t* starts, uint16_t* masks,
                                 int32_t* dots) {
  for (int64_t q = 0; q < n_queries; ++q) {
    for (int64_t b = 0; b < n_tile_blocks; ++b) {
      int32_t* at = dots + (q * n_blocks + b) * kBlockRows;
      const int32_t above = origin(queries[q]) - starts[q * kScanBlocks + b];
      const I32 sums = load_int(at);
      if (above != 0 && not_negative(to_float(sums)) == 0) continue;
      const I32 exact = add(sums, broadcast_int(above));
      const float* meta = reinterpret_cast<const float*>(blocks[b] + block_codes_bytes(dim));
      masks[q * n_blocks + b] = static_cast<uint16_t>(kept_rows(meta, exact, queries[q]));
      store_int(at, exact);
    }
  }
}

// A tile of sums. They and the rows are named by register, not by word: a word of several registers
// would be kept in memory.
template <int kQueries, int kBlocks>
using Sums = SumRegister[kQueries][kBlocks * kWordRegisters];

template <int kBlocks>
[[gnu::always_inline]] inline void load_quad(const uint8_t* const* blocks, int64_t quad,
                                             CodesRegister* rows) {
#pragma GCC unroll 8
  for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 4
    for (int r = 0; r < kWordRegisters; ++r) {
      rows[b * kWordRegisters + r] = load_codes(blocks[b] + 64 * quad + r * sizeof(CodesRegister));
    }
  }
}

// Adds the int8 products of a tile of queries and blocks to its sums.
template <int kQueries, int kBlocks, bool kFetch, bool kIsWide>
[[gnu::always_inline]] inline void sum_tile(const uint8_t* const* blocks,
                                            const uint8_t* const* next, int64_t n_quads,
                                            const ScanQuery* queries,
                                            Sums<kQueries, kBlocks>& sum) {
  constexpr int kRegisters = kBlocks * kWordRegisters;
  // Two quads at a time where the rows of both fit beside the sums. Past an odd last quad lie the
  // scales of the block, and zeros among the codes of a query: their products are zero.
  if constexpr (kAddsPairs && kQueries >= 4 && !kFetch && !kIsWide) {
    for (int64_t quad = 0; quad < n_quads; quad += 2) {
      CodesRegister rows[kRegisters], more[kRegisters];
      load_quad<kBlocks>(blocks, quad, rows);
      load_quad<kBlocks>(blocks, quad + 1, more);
#pragma GCC unroll 8
      for (int q = 0; q < kQueries; ++q) {
        const QueryCodes codes = broadcast_codes(queries[q].codes + 4 * quad);
        const QueryCodes codes2 = broadcast_codes(queries[q].codes + 4 * quad + 4);
#pragma GCC unroll 16
        for (int r = 0; r < kRegisters; ++r) dot_two(sum[q][r], rows[r], codes, more[r], codes2);
      }
    }
    return;
  }
  for (int64_t quad = 0; quad < n_quads; ++quad) {
    CodesRegister rows[kRegisters];
    if constexpr (kFetch) {
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) __builtin_prefetch(next[b] + 64 * quad);
    }
    load_quad<kBlocks>(blocks, quad, rows);
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) {
      if constexpr (kIsWide) {
        const WideCodes codes = broadcast_wide(queries[q].wide_codes + 4 * quad);
#pragma GCC unroll 16
        for (int r = 0; r < kRegisters; ++r) dot_wide(sum[q][r], rows[r], codes);
      } else {
        const QueryCodes codes = broadcast_codes(queries[q].codes + 4 * quad);
#pragma GCC unroll 16
        for (int r = 0; r < kRegisters; ++r) dot_codes(sum[q][r], rows[r], codes);
      }
    }
  }
}

// Inlined into its callers, the loop would lose registers to them.
template <int kQueries, int kBlocks, bool kFetch, bool kIsWide>
[[gnu::noinline]] void scan_tile(const uint8_t* const* blocks, const uint8_t* const* next,
                                 int64_t n_blocks, int64_t dim, const ScanQuery* queries,
                                 const int32_t* starts, uint16_t* masks, int32_t* dots) {
  constexpr int kRegisters = kBlocks * kWordRegisters;
  Sums<kQueries, kBlocks> sum;
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 16
    for (int r = 0; r < kRegisters; ++r)
      sum[q][r] = start_sum(starts[q * kScanBlocks + r / kWordRegisters]);
  }
  sum_tile<kQueries, kBlocks, kFetch, kIsWide>(blocks, next, quads(dim), queries, sum);
  if (!kIsWide && masks != nullptr) {
    SumRegister every = sum[0][0];
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 16
      for (int r = 0; r < kRegisters; ++r) every = both(every, sum[q][r]);
    }
    if (!any_not_negative(every)) return;
  }
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b)
      store_int(dots + (q * n_blocks + b) * kBlockRows, join(&sum[q][b * kWordRegisters]));
  }
  if (masks != nullptr)
    test_tile(blocks, kBlocks, n_blocks, dim, queries, kQueries, starts, masks, dots);
}

template <int kQueries, bool kFetch, bool kIsWide>
void scan_queries(const uint8_t* const* blocks, const uint8_t* const* next, int64_t n_blocks,
                  int64_t dim, const ScanQuery* queries, const int32_t* starts, uint16_t* masks,
                  int32_t* dots) {
  constexpr int kBlocks = tile_blocks(kQueries);
  int64_t b = 0;
  const auto run = [&](auto count) {
    constexpr int kHere = decltype(count)::value;
    if constexpr (kFetch) {
      // The tile asks for codes only: one pointer more would cost it a register.
      for (int i = 0; i < kHere; ++i) {
        const uint8_t* meta = next[b + i] + block_codes_bytes(dim);
        for (int line = 0; line < 3; ++line) __builtin_prefetch(meta + 64 * line);
      }
    }
    scan_tile<kQueries, kHere, kFetch, kIsWide>(blocks + b, next + b, n_blocks, dim, queries,
                                                starts + b, masks == nullptr ? nullptr : masks + b,
                                                dots + b * kBlockRows);
    b += kHere;
  };
  while (b + kBlocks <= n_blocks) run(Count<kBlocks>{});
  if constexpr (kBlocks > 2) {
    if (b + 2 <= n_blocks) run(Count<2>{});
  }
  while (b < n_blocks) run(Count<1>{});
}

// The largest number of queries whose starts are made at once: a whole number of tiles.
constexpr int64_t kAimedQueries = 48;
static_assert(kAimedQueries % kTileQueries == 0);

// scan, for at most kAimedQueries queries.
void scan_aimed(const uint8_t* const* blocks, const uint8_t* const* next, int64_t n_blocks,
                int64_t dim, const ScanQuery* queries, int64_t n_queries, const int32_t* starts,
                uint16_t* masks, int32_t* dots) {
  const uint8_t* const* fetched = next == nullptr ? blocks : next;
  int64_t q = 0;
  const auto run = [&](auto count, auto fetch) {
    constexpr int kQueries = decltype(count)::value;
    scan_queries<kQueries, decltype(fetch)::value != 0, false>(
        blocks, fetched, n_blocks, dim, queries + q, starts + q * kScanBlocks,
        masks == nullptr ? nullptr : masks + q * n_blocks, dots + q * n_blocks * kBlockRows);
    q += kQueries;
  };
  if (queries[0].wide_codes != nullptr) {
    for (; q < n_queries; ++q) {
      scan_queries<1, true, true>(
          blocks, q == 0 ? fetched : blocks, n_blocks, dim, queries + q, starts + q * kScanBlocks,
          masks == nullptr ? nullptr : masks + q * n_blocks, dots + q * n_blocks * kBlockRows);
    }
    return;
  }
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

void scan(const uint8_t* const* blocks, const uint8_t* const* next, int64_t n_blocks, int64_t dim,
          const ScanQuery* queries, int64_t n_queries, uint16_t* masks, int32_t* dots) {
  const bool is_aimed = masks != nullptr && n_queries > 0 && queries[0].wide_codes == nullptr;
  BlockLimits limits;
  if (is_aimed) limits = block_limits(blocks, n_blocks, dim);
  if (masks != nullptr) __builtin_memset(masks, 0, n_queries * n_blocks * sizeof(*masks));
  int32_t starts[kAimedQueries * kScanBlocks];
  for (int64_t first = 0; first < n_queries; first += kAimedQueries) {
    const int64_t n = n_queries - first < kAimedQueries ? n_queries - first : kAimedQueries;
    for (int64_t q = 0; q < n; ++q) {
      int32_t* to = starts + q * kScanBlocks;
      if (is_aimed) {
        aim_at_blocks(limits, queries[first + q], to);
      } else {
        for (int b = 0; b < kScanBlocks; ++b) to[b] = origin(queries[first + q]);
      }
    }
    scan_aimed(blocks, first == 0 ? next : nullptr, n_blocks, dim, queries + first, n, starts,
               masks == nullptr ? nullptr : masks + first * n_blocks,
               dots + first * n_blocks * kBlockRows);
  }
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

void lane_tops(const float* values, int64_t n_blocks, float* out) {
  F32 top = load(values);
  for (int64_t b = 1; b < n_blocks; ++b) top = max(top, load(values + b * kBlockRows));
  store(out, top);
}

float kth_largest(const float* values, int64_t n_blocks, int64_t k) {
  // The largest, the largest below it, and so on, until k values have been met.
  float limit = __builtin_inff();
  while (true) {
    F32 top = broadcast(-__builtin_inff());
    for (int64_t b = 0; b < n_blocks; ++b)
      top = max(top, below(load(values + b * kBlockRows), limit));
    limit = max_lane(top);
    if (limit == -__builtin_inff()) return limit;
    int64_t n = 0;
    for (int64_t b = 0; b < n_blocks; ++b)
      n += __builtin_popcount(not_negative(sub(load(values + b * kBlockRows), broadcast(limit))));
    if (n >= k) return limit;
  }
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
