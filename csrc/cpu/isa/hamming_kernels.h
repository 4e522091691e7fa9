#pragma once

#include <cstdint>

namespace memcore {

// Codes are scanned for many queries at once as nibbles: a query's table of 16 distances is looked
// up for 32 or 64 codes in one instruction. Codes come in groups of 128, laid out [nibble][128].
inline constexpr int64_t kNibbleGroup = 128;

// Distances are summed in bytes that stop at 255, so codes have at most 256 bits.
inline constexpr int64_t kMaxNibbleWords = 4;
inline constexpr int kByteLimit = 255;

struct HammingKernels {
  // out[0 … ) = the positions of the codes (n, n_words) within `limit` bits of the query, in order.
  // Returns how many; out has room for n.
  int64_t (*within)(const uint64_t* query, const uint64_t* codes, int64_t n, int64_t n_words,
                    int64_t limit, int32_t* out);

  // The same for two queries and n_groups groups of nibbles: masks[(q * n_groups + g) * 2 …] has
  // bit i set if code i of group g is within limits[q] bits of query q, limits being at most 255;
  // at 255 all are. tables[q] is [nibble][16].
  void (*within_nibbles)(const uint8_t* const* tables, const uint8_t* limits,
                         const uint8_t* nibbles, int64_t n_nibbles, int64_t n_groups,
                         uint64_t* masks);
};

}  // namespace memcore
