// The inner loop of assignment: estimates of all scores, a query and a block after the other, where
// one row a query is wanted and no threshold is known.

#include "kernels.h"

namespace memcore {
namespace {

// estimates[q * stride + 16 b + r], and the best of each lane so far in tops[16 q + r].
template <int kQueries, int kBlocks>
[[gnu::noinline]] void estimate_tile(const uint8_t* const* blocks, int64_t dim,
                                     const ScanQuery* queries, int64_t stride, float* estimates,
                                     float* tops) {
  Sums<kQueries, kBlocks> sum;
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 16
    for (int r = 0; r < kBlocks * kWordRegisters; ++r) sum[q][r] = start_sum(origin(queries[q]));
  }
  sum_tile<kQueries, kBlocks, false, false>(blocks, blocks, quads(dim), queries, sum);
#pragma GCC unroll 8
  for (int b = 0; b < kBlocks; ++b) {
    const float* meta = reinterpret_cast<const float*>(blocks[b] + block_codes_bytes(dim));
    const F32 scale = load(meta), norm = load(meta + 2 * kBlockRows);
    const F32 square = mul(norm, norm);
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) {
      const F32 dots = to_float(join(&sum[q][b * kWordRegisters]));
      const F32 estimate = sub(mul(mul(dots, scale), broadcast(queries[q].slope)), square);
      store(estimates + q * stride + b * kBlockRows, estimate);
      store(tops + q * kBlockRows, max(load(tops + q * kBlockRows), estimate));
    }
  }
}

void estimate(const uint8_t* blocks, int64_t block_stride, int64_t n_blocks, int64_t dim,
              const ScanQuery* queries, int64_t n_queries, float* estimates, float* tops) {
  const int64_t stride = n_blocks * kBlockRows;
  float lanes[kEstimateQueries * kBlockRows];
  for (int64_t i = 0; i < n_queries; ++i) {
    store(lanes + i * kBlockRows, broadcast(-__builtin_inff()));
  }
  int64_t b = 0;
  const auto look = [&](auto n_here) {
    constexpr int kBlocks = decltype(n_here)::value;
    const uint8_t* at[kBlocks];
    for (int i = 0; i < kBlocks; ++i) at[i] = blocks + (b + i) * block_stride;
    int64_t q = 0;
    const auto run = [&](auto count) {
      constexpr int kQueries = decltype(count)::value;
      for (; q + kQueries <= n_queries; q += kQueries) {
        estimate_tile<kQueries, kBlocks>(at, dim, queries + q, stride,
                                         estimates + q * stride + b * kBlockRows,
                                         lanes + q * kBlockRows);
      }
    };
    run(Count<kTileQueries>{});
    run(Count<1>{});
    b += kBlocks;
  };
  // The block stays near while all queries look at it.
  constexpr int kBlocks = tile_blocks(kTileQueries);
  while (b + kBlocks <= n_blocks) look(Count<kBlocks>{});
  while (b < n_blocks) look(Count<1>{});
  for (int64_t i = 0; i < n_queries; ++i) tops[i] = max_lane(load(lanes + i * kBlockRows));
}

}  // namespace
}  // namespace memcore
