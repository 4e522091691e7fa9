#pragma once

#include <cstdint>

namespace memcore {

// For many queries, 256 codes at a time lie by bits: word i of a bit's four holds it of codes
// 64 i … 64 i + 63. Any three bits of a code differ from a query's in `parity + 2 majority` places;
// the majority has eight forms, one for each three bits a query may have, and the parity is a bit
// of a shorter code. So n bits become n / 2 majorities, looked up, and one last parity.
inline constexpr int64_t kSliceCodes = 256;
inline constexpr int64_t kSliceLanes = kSliceCodes / 64;
inline constexpr int64_t kForms = 8;

// Tables of one slice: [32 n_words][kForms][kSliceLanes], then the last parity.
constexpr int64_t slice_words(int64_t n_words) { return (32 * n_words * kForms + 1) * kSliceLanes; }

// Beyond this the tables leave the second-level cache.
inline constexpr int64_t kMaxSliceWords = 16;
// Distances up to 1,024 have eleven bits.
inline constexpr int kMaxDistanceBits = 11;

// Bits of a distance of 0 … 64 n_words.
constexpr int distance_bits(int64_t n_words) {
  int bits = 6;
  for (int64_t left = n_words; left > 0; left /= 2) ++bits;
  return bits;
}

// What a query brings: the form of each majority, as an offset in bytes, and as masks of all bits
// or none the last parity and the bits, lowest first, of 2^distance_bits - 1 - limit, to which a
// distance is added: it is within the limit if that does not overflow.
struct SliceQuery {
  const uint8_t* forms;
  uint64_t parity;
  uint64_t start[kMaxDistanceBits];
};

// Codes of a slice near a query; bit i of word l is code 64 l + i.
struct SliceHits {
  int64_t query;
  uint64_t codes[kSliceLanes];
};

struct HammingKernels {
  // out[0 … ) = the positions of the codes (n, n_words) within `limit` bits of the query, in order.
  // Returns how many; out has room for n.
  int64_t (*within)(const uint64_t* query, const uint64_t* codes, int64_t n, int64_t n_words,
                    int64_t limit, int32_t* out);

  // Tables, on lines of 32 bytes, of up to kSliceCodes codes (n, n_words); missing ones are zero.
  // scratch has room for 96 n_words * kSliceLanes words and lies likewise.
  void (*slice)(const uint64_t* codes, int64_t n, int64_t n_words, uint64_t* scratch,
                uint64_t* tables);

  // The queries with codes of the slice within their limits, missing codes among them. Returns how
  // many; out has room for n_queries.
  int64_t (*within_slice)(const uint64_t* tables, int64_t n_words, const SliceQuery* queries,
                          int64_t n_queries, SliceHits* out);
};

}  // namespace memcore
