#pragma once

#include <cstdint>

namespace memcore {

// Planes of +-1 are summed by lookup: a row's components are rounded to int16, each four of them
// ("a quad") make a table of their eight sums up to sign, and a plane adds one entry a quad. All
// arithmetic is in integers, so the sums are exact for the rounded row.

// Planes come in groups of 64, quads in pairs, components in blocks of 64: eight pairs.
inline constexpr int kGroupPlanes = 64;
inline constexpr int64_t kBlockPairs = 8;
constexpr int64_t quad_pairs(int64_t dim) { return (dim + 63) / 64 * kBlockPairs; }

// Component i of the quad at `side` (0 or 1) of a pair. A quad takes every sixteenth component, in
// the order in which packing to 16 bits leaves them.
constexpr int64_t quad_component(int64_t pair, int64_t side, int64_t i) {
  const int64_t lane = 2 * (pair % kBlockPairs) + side;
  return pair / kBlockPairs * 64 + 16 * i + ((lane & 3) | (lane & 4) << 1 | (lane & 8) >> 1);
}

// Entry e of a quad's table is c0 + r1 c1 + r2 c2 + r3 c3, with ri = -1 where bit i - 1 of e is
// set. The tables of a pair are 16 low bytes, then 16 high bytes, entry e of side s at 8 s + e;
// each byte is 128 too large: entry = 256 (high - 128) + (low - 128).
inline constexpr int32_t kTableShift = 32768 + 128;

// No entry passes this: kTableShift + 32639 is 65535.
inline constexpr int32_t kLargestEntry = 32639;

// A 16-bit sum holds 255 bytes less 128: so many pairs are summed before widening.
inline constexpr int64_t kChunkPairs = 15 * kBlockPairs;
constexpr int64_t pair_chunks(int64_t dim) {
  return (quad_pairs(dim) + kChunkPairs - 1) / kChunkPairs;
}

// A group is packed as: for each chunk, 64 int16 to start from; then for each of its pairs, two
// index bytes for each plane, then two signs.
inline constexpr int64_t kStartBytes = 2 * kGroupPlanes;
inline constexpr int64_t kPairBytes = 4 * kGroupPlanes;
constexpr int64_t group_bytes(int64_t dim) {
  return pair_chunks(dim) * kStartBytes + quad_pairs(dim) * kPairBytes;
}

// The tables of a row: 32 bytes a pair.
constexpr int64_t table_bytes(int64_t dim) { return 32 * quad_pairs(dim); }

// Beyond this dim the 32-bit sums could overflow.
inline constexpr int64_t kMaxLookupDim = 131072;

// A row whose sizes sum to no more than this is finite, and its canonical dot with itself far below
// 1e36, whatever either sum was rounded by.
inline constexpr float kLargestTotal = 5e17f;

struct LshKernels {
  // tables = those of a row (dim,). Returns false, and writes nothing, for a row too small to be
  // rounded safely, or with a total beyond kLargestTotal or not a number. Asks for the lines of a
  // row to come, a few at a time; nothing is read there.
  bool (*make_row_tables)(const float* row, int64_t dim, const float* next, uint8_t* tables);

  // sums[r * stride + p] = the rounded row r times plane p of a packed group.
  void (*project)(const uint8_t* tables, int64_t n_rows, const uint8_t* group, int64_t dim,
                  int32_t* sums, int64_t stride);

  // Of 64 sums: bit p of *positive is set where sum p > bound, of *doubtful where |sum p| <= bound.
  void (*signs)(const int32_t* sums, int32_t bound, uint64_t* positive, uint64_t* doubtful);
};

}  // namespace memcore
