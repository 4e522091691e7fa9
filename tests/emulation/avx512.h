// AVX-512 on a processor without it: SIMDe's emulation under the names of the intrinsics, and the
// few that SIMDe 0.8 lacks or has only with other flags. Included before simd_avx512.h.
#pragma once

#include <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>

namespace emulation {

template <class Half, class From>
struct Halves {
  explicit Halves(From from) { __builtin_memcpy(part, &from, sizeof(part)); }
  Half part[2];
};

// A word of 512 bits from a function of each of its halves.
template <class To, class From, class Do>
inline To each(const From& halves, Do&& run) {
  const auto low = run(halves.part[0]), high = run(halves.part[1]);
  To to;
  __builtin_memcpy(&to, &low, sizeof(low));
  __builtin_memcpy(reinterpret_cast<char*>(&to) + sizeof(low), &high, sizeof(high));
  return to;
}

inline simde__m512 from_half(__m256i from) {
  return each<simde__m512>(Halves<__m128i, __m256i>(from),
                           [](__m128i a) { return _mm256_cvtph_ps(a); });
}
inline simde__m512i from_u16(__m256i from) {
  return each<simde__m512i>(Halves<__m128i, __m256i>(from),
                            [](__m128i a) { return _mm256_cvtepu16_epi32(a); });
}
inline simde__m512i from_i8(__m128i from) {
  const __m256i both = _mm256_set_m128i(_mm_unpackhi_epi64(from, from), from);
  return each<simde__m512i>(Halves<__m128i, __m256i>(both),
                            [](__m128i a) { return _mm256_cvtepi8_epi32(a); });
}
inline simde__m512i to_int(simde__m512 from) {
  return each<simde__m512i>(Halves<__m256, simde__m512>(from),
                            [](__m256 a) { return _mm256_cvtps_epi32(a); });
}
inline simde__m512 to_float(simde__m512i from) {
  return each<simde__m512>(Halves<__m256i, simde__m512i>(from),
                           [](__m256i a) { return _mm256_cvtepi32_ps(a); });
}
inline __m128i to_i8(simde__m512i from) {
  int items[16];
  signed char bytes[16];
  __builtin_memcpy(items, &from, sizeof(items));
  for (int i = 0; i < 16; ++i)
    bytes[i] = static_cast<signed char>(items[i] > 127 ? 127 : items[i] < -128 ? -128 : items[i]);
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
}
inline __m256 half(simde__m512 from, int which) {
  return Halves<__m256, simde__m512>(from).part[which];
}

}  // namespace emulation

#undef _mm512_cvtph_ps
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtps_epi32
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtsepi32_epi8
#undef _mm512_extractf32x8_ps
#undef _mm512_madd_epi16
#define _mm512_cvtph_ps(a) emulation::from_half(a)
#define _mm512_cvtepu16_epi32(a) emulation::from_u16(a)
#define _mm512_cvtepi8_epi32(a) emulation::from_i8(a)
#define _mm512_cvtps_epi32(a) emulation::to_int(a)
#define _mm512_cvtepi32_ps(a) emulation::to_float(a)
#define _mm512_cvtsepi32_epi8(a) emulation::to_i8(a)
#define _mm512_extractf32x8_ps(a, which) emulation::half(a, which)
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
