// Table look-ups on AVX-512BW: 64 bytes, or 32 planes of two bytes, a register.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "lookup_tables_x86.h"

namespace memcore {
namespace {

inline __m256i round_to_int16(F32 word) {
  return _mm256_packs_epi32(_mm256_cvtps_epi32(_mm512_extractf32x8_ps(word, 0)),
                            _mm256_cvtps_epi32(_mm512_extractf32x8_ps(word, 1)));
}

// The tables of 64 components, given in steps.
inline void make_tables(const F32* words, uint8_t* out) {
  make_tables(round_to_int16(words[0]), round_to_int16(words[1]), round_to_int16(words[2]),
              round_to_int16(words[3]), out);
}

inline constexpr int kRegisterPlanes = 32;
inline constexpr int kProjectRows = 4;
using Bytes = __m512i;
using Sums16 = __m512i;

inline Bytes load_bytes(const uint8_t* from) { return _mm512_loadu_si512(from); }
inline Bytes repeat_table(const uint8_t* from) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline Sums16 load_sums(const int16_t* from) { return _mm512_loadu_si512(from); }
// sums += table[index] * signs, by pairs of bytes. As intrinsics, gcc 12 copies the sums.
inline void add_lookups(Sums16& sums, Bytes table, Bytes index, Bytes signs) {
#if defined(MEMCORE_INTRINSICS_ONLY)
  sums = _mm512_add_epi16(sums, _mm512_maddubs_epi16(_mm512_shuffle_epi8(table, index), signs));
#else
  Bytes found;
  __asm__("vpshufb %3, %2, %1\n\tvpmaddubsw %4, %1, %1\n\tvpaddw %1, %0, %0"
          : "+v"(sums), "=&v"(found)
          : "v"(table), "v"(index), "v"(signs));
#endif
}
// to[p] = 256 high[p] + low[p].
inline void store_sums(int32_t* to, Sums16 high, Sums16 low) {
  const __m512i weights = _mm512_set1_epi32(1 << 16 | 256);
  const __m512i even = _mm512_madd_epi16(_mm512_unpacklo_epi16(high, low), weights);
  const __m512i odd = _mm512_madd_epi16(_mm512_unpackhi_epi16(high, low), weights);
  // The unpacking worked within quarters.
  const __m512i one = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i two = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi64(even, one, odd));
  _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi64(even, two, odd));
}

}  // namespace
}  // namespace memcore
