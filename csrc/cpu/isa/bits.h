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

}  // namespace
}  // namespace memcore
