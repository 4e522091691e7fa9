// Table look-ups on AVX2: 32 bytes, or 16 planes of two bytes, a register.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "lookup_tables_x86.h"

namespace memcore {
namespace {

inline __m256i round_to_int16(F32 word) {
  return _mm256_packs_epi32(_mm256_cvtps_epi32(word.low), _mm256_cvtps_epi32(word.high));
}

// The tables of 64 components, given in steps.
inline void make_tables(const F32* words, uint8_t* out) {
  make_tables(round_to_int16(words[0]), round_to_int16(words[1]), round_to_int16(words[2]),
              round_to_int16(words[3]), out);
}

inline constexpr int kRegisterPlanes = 16;
inline constexpr int kProjectRows = 2;
using Bytes = __m256i;
using Sums16 = __m256i;

inline Bytes load_bytes(const uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline Bytes repeat_table(const uint8_t* from) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline Sums16 load_sums(const int16_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
// sums += table[index] * signs, by pairs of bytes. As intrinsics, gcc 12 keeps a sum on the stack.
inline void add_lookups(Sums16& sums, Bytes table, Bytes index, Bytes signs) {
  Bytes found;
  __asm__("vpshufb %3, %2, %1\n\tvpmaddubsw %4, %1, %1\n\tvpaddw %1, %0, %0"
          : "+x"(sums), "=&x"(found)
          : "x"(table), "x"(index), "x"(signs));
}
// to[p] = 256 high[p] + low[p].
inline void store_sums(int32_t* to, Sums16 high, Sums16 low) {
  const __m256i weights = _mm256_set1_epi32(1 << 16 | 256);
  const __m256i even = _mm256_madd_epi16(_mm256_unpacklo_epi16(high, low), weights);
  const __m256i odd = _mm256_madd_epi16(_mm256_unpackhi_epi16(high, low), weights);
  // The unpacking worked within halves.
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute2x128_si256(even, odd, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8),
                      _mm256_permute2x128_si256(even, odd, 0x31));
}

}  // namespace
}  // namespace memcore
