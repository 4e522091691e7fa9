#pragma once

#include <cstdint>

#include "dtype.h"

namespace memcore {

// Rows of the shadow come in blocks of 16, one row per vector lane.
inline constexpr int kBlockRows = 16;

// dim rounded up to whole groups of four components: the unit of the int8 dot product.
constexpr int64_t quads(int64_t dim) { return (dim + 3) / 4; }

// A block is [quads][16 rows][4 components] uint8 (int8 + 128), then scale[16], error[16], norm[16] in float32.
// Row r is about scale[r] * (code - 128); error bounds the norm of what that leaves out; norm is the canonical norm.
constexpr int64_t block_bytes(int64_t dim) { return quads(dim) * 64 + 3 * kBlockRows * 4; }
constexpr int64_t block_scale_offset(int64_t dim) { return quads(dim) * 64; }

// What the first pass knows of one query. A row is kept unless
//   slope * (scale * idot) + error_weight * error + norm_weight * norm + square_weight * norm^2 + offset < 0.
struct ScanQuery {
  const int8_t* codes;  // [quads][4]
  int32_t start;        // -128 * sum(codes): undoes the offset of the rows
  float slope;
  float error_weight;
  float norm_weight;
  float square_weight;
  float offset;
};

// The inner loops, compiled once per instruction set from kernels.inl. Rows may be unaligned.
struct Kernels {
  const char* name;

  // The largest |code| of a query that cannot overflow this set's int8 multiply.
  int32_t query_limit;

  // sums[i] = the canonical dot (or sum of squared differences) of query (dim,) float32 and rows[i].
  void (*dot_rows)(const float* query, const void* const* rows, DType dtype, int64_t n_rows, int64_t dim, float* sums);
  void (*l2_rows)(const float* query, const void* const* rows, DType dtype, int64_t n_rows, int64_t dim, float* sums);

  // sums[i] = the canonical dot of rows[i] with itself.
  void (*square_rows)(const void* const* rows, DType dtype, int64_t n_rows, int64_t dim, float* sums);

  // out (dim,) float32 = the row, widened.
  void (*widen)(const void* row, DType dtype, int64_t dim, float* out);

  // Write one row into lane `lane` of a block: codes, scale, error, norm. square is the row's canonical dot with itself.
  // A row that is not finite, or whose square passes 1e36, gets scale 0, norm 0 and an infinite error: always a candidate.
  void (*shadow_row)(const float* row, int64_t dim, float square, uint8_t* block, int lane);

  // First pass: masks[q * n_blocks + b] has bit r set if row r of block b may matter to query q. Where any bit of a
  // tile is set, dots[(q * n_blocks + b) * 16 + r] holds the int8 dot products. n_blocks is at most kScanBlocks.
  void (*scan)(const uint8_t* const* blocks, int64_t n_blocks, int64_t dim, const ScanQuery* queries, int64_t n_queries,
               uint16_t* masks, int32_t* dots);
};

inline constexpr int64_t kScanBlocks = 4;

// The table in use. Chosen once at start-up: the best that runs here, or MEMCORE_ISA.
const Kernels& kernels();

}  // namespace memcore
