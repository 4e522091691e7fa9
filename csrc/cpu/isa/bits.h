// 256 bits side by side, one of each of 256 codes, in the compiler's own vectors: only three
// instructions are worth naming.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace memcore {
namespace {

using Bits = uint64_t __attribute__((vector_size(32), may_alias));

inline void majority(const Bits& a, const Bits& b, const Bits& c, Bits& out) {
#if defined(__AVX512VL__)
  out = reinterpret_cast<Bits>(_mm256_ternarylogic_epi64(reinterpret_cast<__m256i>(a),
                                                         reinterpret_cast<__m256i>(b),
                                                         reinterpret_cast<__m256i>(c), 0xe8));
#else
  out = (a & b) | (c & (a ^ b));
#endif
}

// sum + a + b = sum' + 2 carry, bit by bit.
inline void carry_save(Bits& sum, const Bits& a, const Bits& b, Bits& carry) {
#if defined(__AVX512VL__)
  const auto s = reinterpret_cast<__m256i>(sum), x = reinterpret_cast<__m256i>(a),
             y = reinterpret_cast<__m256i>(b);
  carry = reinterpret_cast<Bits>(_mm256_ternarylogic_epi64(s, x, y, 0xe8));
  sum = reinterpret_cast<Bits>(_mm256_ternarylogic_epi64(s, x, y, 0x96));
#else
  // The sum, for which the next addition waits, comes last and is used once.
  const Bits different = a ^ b;
  carry = (a & b) | (sum & different);
  sum ^= different;
#endif
}

inline bool all_set(const Bits& bits) {
#if defined(__AVX2__)
  return _mm256_testc_si256(reinterpret_cast<__m256i>(bits), _mm256_set1_epi64x(-1)) != 0;
#else
  return (bits[0] & bits[1] & bits[2] & bits[3]) == ~uint64_t{0};
#endif
}

// Whether one of eight codes of one word is within `limit` bits of the query. Counting in the
// vector unit leaves the scalar one to the loop: a scan of one query then reads at the speed of
// memory.
inline bool any_within(uint64_t query, const uint64_t* codes, int64_t limit) {
#if defined(__AVX2__)
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i counts =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i past = _mm256_set1_epi64x(limit + 1);
  __m256i any = _mm256_setzero_si256();
  for (int i = 0; i < 8; i += 4) {
    const __m256i differ =
        _mm256_xor_si256(_mm256_set1_epi64x(static_cast<int64_t>(query)),
                         _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i)));
    const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(differ, 4), low);
    const __m256i bits = _mm256_add_epi8(_mm256_shuffle_epi8(counts, _mm256_and_si256(differ, low)),
                                         _mm256_shuffle_epi8(counts, upper));
    const __m256i distances = _mm256_sad_epu8(bits, _mm256_setzero_si256());
    any = _mm256_or_si256(any, _mm256_sub_epi64(distances, past));
  }
  return _mm256_movemask_pd(_mm256_castsi256_pd(any)) != 0;
#else
  int64_t any = 0;
  for (int i = 0; i < 8; ++i) any |= __builtin_popcountll(query ^ codes[i]) - limit - 1;
  return any < 0;
#endif
}

}  // namespace
}  // namespace memcore
