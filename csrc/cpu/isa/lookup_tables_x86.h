// The tables of a row's quads: lsh_kernels.h says what is in them.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "lsh_kernels.h"

namespace memcore {
namespace {

// The tables of 64 components, rounded and packed to 16 bits: 32 bytes for each of 8 pairs.
inline void make_tables(__m256i first, __m256i second, __m256i third, __m256i fourth,
                        uint8_t* out) {
  const __m256i shift = _mm256_set1_epi16(static_cast<int16_t>(kTableShift));
  const __m256i sum = _mm256_add_epi16(_mm256_add_epi16(first, second), shift);
  const __m256i difference = _mm256_add_epi16(_mm256_sub_epi16(first, second), shift);
  const __m256i same = _mm256_add_epi16(third, fourth), other = _mm256_sub_epi16(third, fourth);
  // entries[e] holds entry e of 16 quads.
  const __m256i entries[8] = {_mm256_add_epi16(sum, same),  _mm256_add_epi16(difference, same),
                              _mm256_sub_epi16(sum, other), _mm256_sub_epi16(difference, other),
                              _mm256_add_epi16(sum, other), _mm256_add_epi16(difference, other),
                              _mm256_sub_epi16(sum, same),  _mm256_sub_epi16(difference, same)};
  // Transposed within halves: half h of quads[i] becomes the eight entries of quad 8 h + i.
  __m256i two[8], four[8], quads_of[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    two[2 * i] = _mm256_unpacklo_epi16(entries[2 * i], entries[2 * i + 1]);
    two[2 * i + 1] = _mm256_unpackhi_epi16(entries[2 * i], entries[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    four[4 * i] = _mm256_unpacklo_epi32(two[4 * i], two[4 * i + 2]);
    four[4 * i + 1] = _mm256_unpackhi_epi32(two[4 * i], two[4 * i + 2]);
    four[4 * i + 2] = _mm256_unpacklo_epi32(two[4 * i + 1], two[4 * i + 3]);
    four[4 * i + 3] = _mm256_unpackhi_epi32(two[4 * i + 1], two[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    quads_of[2 * i] = _mm256_unpacklo_epi64(four[i], four[4 + i]);
    quads_of[2 * i + 1] = _mm256_unpackhi_epi64(four[i], four[4 + i]);
  }
  const __m256i low_byte = _mm256_set1_epi16(255);
#pragma GCC unroll 4
  for (int p = 0; p < 4; ++p) {
    const __m256i a = quads_of[2 * p], b = quads_of[2 * p + 1];
    const __m256i low =
        _mm256_packus_epi16(_mm256_and_si256(a, low_byte), _mm256_and_si256(b, low_byte));
    const __m256i high = _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * p),
                        _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * (p + 4)),
                        _mm256_permute2x128_si256(low, high, 0x31));
  }
}

}  // namespace
}  // namespace memcore
