// The vector words on AVX-512 (F, BW, DQ, VL): one register a word. With VNNI the int8 multiply is
// one instruction.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace memcore {
namespace {

using F32 = __m512;
using I32 = __m512i;

// Each broadcast of a query is used for four blocks; 24 of 32 registers hold sums.
inline constexpr int tile_blocks(int) { return 4; }
#ifdef __AVX512VNNI__
inline constexpr int kTileQueries = 6;
inline constexpr bool kAddsPairs = false;
#else
inline constexpr int kTileQueries = 4;
// vpmaddubsw adds two products in 16 bits: 255 * 128 fits.
inline constexpr bool kAddsPairs = true;
#endif

inline F32 broadcast(float value) { return _mm512_set1_ps(value); }
inline F32 load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, F32 a) { _mm512_storeu_ps(to, a); }
inline F32 load_half(const uint16_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline F32 load_bfloat(const uint16_t* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline F32 load_int8(const int8_t* from) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}

inline F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
inline F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
inline F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
inline F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
inline F32 sqrt(F32 a) { return _mm512_sqrt_ps(a); }
inline F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
inline F32 abs(F32 a) { return _mm512_abs_ps(a); }

// a, or b where a is NaN or smaller.
inline F32 max_number(F32 a, F32 b) { return max(a, b); }
// 2^n, from n + 1.5 * 2^23 with n from -127 (then 0) to 127.
inline F32 power_of_two(F32 shifted) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127)), 23));
}

// Components 1 0 3 2 …
inline F32 swap_pairs(F32 a) { return _mm512_shuffle_ps(a, a, 0xb1); }

// Components 4 5 6 7 0 1 2 3 12 …
inline F32 swap_fours(F32 a) { return _mm512_shuffle_f32x4(a, a, 0xb1); }

// a where a < limit, else -infinity.
inline F32 below(F32 a, float limit) {
  const __mmask16 is_below = _mm512_cmp_ps_mask(a, _mm512_set1_ps(limit), _CMP_LT_OQ);
  return _mm512_mask_blend_ps(is_below, _mm512_set1_ps(-__builtin_inff()), a);
}

inline float max_lane(F32 a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// The canonical fold: lane[i] += lane[i + 8], then 4, 2, 1.
inline float fold(F32 a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline I32 broadcast_int(int32_t value) { return _mm512_set1_epi32(value); }
inline I32 load_int(const int32_t* from) { return _mm512_loadu_si512(from); }
inline void store_int(int32_t* to, I32 a) { _mm512_storeu_si512(to, a); }
inline I32 add(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
inline F32 to_float(I32 a) { return _mm512_cvtepi32_ps(a); }

// To the nearest integer, ties to even.
inline I32 to_int(F32 a) { return _mm512_cvtps_epi32(a); }

// 16 codes of one row: four groups of four.
using Codes = __m128i;
inline Codes pack_codes(I32 a) { return _mm512_cvtsepi32_epi8(a); }

// Group i of two rows, offset by 128, side by side to `to` + 64 i.
inline void store_codes(Codes first, Codes second, uint8_t* to) {
  const __m128i offset = _mm_set1_epi8(-128);
  const __m128d low = _mm_castsi128_pd(_mm_xor_si128(_mm_unpacklo_epi32(first, second), offset));
  const __m128d high = _mm_castsi128_pd(_mm_xor_si128(_mm_unpackhi_epi32(first, second), offset));
  const auto line = [=](int i) { return reinterpret_cast<double*>(to + 64 * i); };
  _mm_storel_pd(line(0), low);
  _mm_storeh_pd(line(1), low);
  _mm_storel_pd(line(2), high);
  _mm_storeh_pd(line(3), high);
}

// 16 codes of a query: int8 as they are, int16 in the order 0 2 1 3 of each four.
inline void store_codes(I32 a, int8_t* to) {
  int32_t code[16];
  store_int(code, a);
  for (int i = 0; i < 16; ++i) to[i] = static_cast<int8_t>(code[i]);
}
inline void store_codes(I32 a, int16_t* to) {
  int32_t code[16];
  store_int(code, a);
  for (int i = 0; i < 16; i += 4) {
    to[i] = static_cast<int16_t>(code[i]);
    to[i + 1] = static_cast<int16_t>(code[i + 2]);
    to[i + 2] = static_cast<int16_t>(code[i + 1]);
    to[i + 3] = static_cast<int16_t>(code[i + 3]);
  }
}

// 16 rows of four codes, and their sums.
inline constexpr int kWordRegisters = 1;
inline constexpr bool kRowsAreOffset = true;
using SumRegister = __m512i;
using CodesRegister = __m512i;
using QueryCodes = __m512i;
inline SumRegister start_sum(int32_t value) { return _mm512_set1_epi32(value); }
inline I32 join(const SumRegister* sums) { return *sums; }
inline CodesRegister load_codes(const uint8_t* from) { return _mm512_loadu_si512(from); }
inline QueryCodes broadcast_codes(const int8_t* from) {
  int32_t codes;
  __builtin_memcpy(&codes, from, 4);
  return _mm512_set1_epi32(codes);
}
inline void dot_codes(SumRegister& sum, CodesRegister rows, QueryCodes query) {
#if defined(MEMCORE_INTRINSICS_ONLY) && defined(__AVX512VNNI__)
  sum = _mm512_dpbusd_epi32(sum, rows, query);
#elif defined(MEMCORE_INTRINSICS_ONLY)
  sum = _mm512_add_epi32(
      sum, _mm512_madd_epi16(_mm512_maddubs_epi16(rows, query), _mm512_set1_epi16(1)));
#elif defined(__AVX512VNNI__)
  // As an intrinsic, gcc 12 copies and spills the sums.
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(rows), "v"(query));
#else
  __m512i products;
  __asm__("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
          : "+v"(sum), "=&v"(products)
          : "v"(rows), "v"(query), "v"(_mm512_set1_epi16(1)));
#endif
}

// dot_codes of two fours. Without VNNI their products are added in 16 bits, which the limits of a
// query's codes allow.
inline void dot_two(SumRegister& sum, CodesRegister rows, QueryCodes query, CodesRegister rows2,
                    QueryCodes query2) {
#if defined(__AVX512VNNI__)
  dot_codes(sum, rows, query);
  dot_codes(sum, rows2, query2);
#elif defined(MEMCORE_INTRINSICS_ONLY)
  const __m512i products =
      _mm512_add_epi16(_mm512_maddubs_epi16(rows, query), _mm512_maddubs_epi16(rows2, query2));
  sum = _mm512_add_epi32(sum, _mm512_madd_epi16(products, _mm512_set1_epi16(1)));
#else
  __m512i products, more;
  __asm__(
      "vpmaddubsw %4, %3, %1\n\tvpmaddubsw %6, %5, %2\n\tvpaddw %2, %1, %1\n\t"
      "vpmaddwd %7, %1, %1\n\tvpaddd %1, %0, %0"
      : "+v"(sum), "=&v"(products), "=&v"(more)
      : "v"(rows), "v"(query), "v"(rows2), "v"(query2), "v"(_mm512_set1_epi16(1)));
#endif
}

// Queries in 16 bits: components 0 and 2 of four, and 1 and 3.
struct WideCodes {
  __m512i even, odd;
};
inline WideCodes broadcast_wide(const int16_t* from) {
  int32_t codes[2];
  __builtin_memcpy(codes, from, 8);
  return {_mm512_set1_epi32(codes[0]), _mm512_set1_epi32(codes[1])};
}
inline void dot_wide(SumRegister& sum, CodesRegister rows, const WideCodes& query) {
  const __m512i even = _mm512_and_si512(rows, _mm512_set1_epi32(0x00ff00ff));
  const __m512i odd = _mm512_srli_epi16(rows, 8);
  sum = _mm512_add_epi32(sum, _mm512_madd_epi16(even, query.even));
  sum = _mm512_add_epi32(sum, _mm512_madd_epi16(odd, query.odd));
}

inline SumRegister both(SumRegister a, SumRegister b) { return _mm512_and_si512(a, b); }
inline bool any_not_negative(SumRegister a) {
  return _mm512_cmpge_epi32_mask(a, _mm512_setzero_si512()) != 0;
}

// Words of a matrix product, with the multiply fused into the add.
inline constexpr int kProductRows = 12;
using FloatRegister = __m512;
inline FloatRegister load_floats(const float* from) { return _mm512_loadu_ps(from); }
inline FloatRegister broadcast_floats(float value) { return _mm512_set1_ps(value); }
inline void store_floats(float* to, FloatRegister a) { _mm512_storeu_ps(to, a); }
inline void multiply_add(FloatRegister& sum, FloatRegister a, FloatRegister b) {
  sum = _mm512_fmadd_ps(a, b, sum);
}

// Bit i is set unless lane i < 0; NaN sets it.
inline uint32_t not_negative(F32 a) {
  return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NLT_UQ);
}

}  // namespace
}  // namespace memcore

#include "lookup_avx512.h"
