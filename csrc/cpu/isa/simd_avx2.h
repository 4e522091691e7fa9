// The vector words on AVX2 and F16C: two registers a word.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace memcore {
namespace {

struct F32 {
  __m256 low, high;
};
struct I32 {
  __m256i low, high;
};

// 16 registers: 4 queries x 1 block, 2 x 2 or 1 x 4 keep all sums in them.
inline constexpr int kTileQueries = 4;
inline constexpr int tile_blocks(int n_queries) {
  return n_queries == 1 ? 4 : n_queries == 2 ? 2 : 1;
}
// vpmaddubsw adds two products in 16 bits: 255 * 128 fits.
inline constexpr bool kAddsPairs = true;

inline F32 broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline F32 load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline void store(float* to, F32 a) {
  _mm256_storeu_ps(to, a.low);
  _mm256_storeu_ps(to + 8, a.high);
}
inline F32 load_half(const uint16_t* from) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8)))};
}
inline __m256 bfloat_to_float(const uint16_t* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline F32 load_bfloat(const uint16_t* from) {
  return {bfloat_to_float(from), bfloat_to_float(from + 8)};
}
inline F32 load_int8(const int8_t* from) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}

inline F32 add(F32 a, F32 b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline F32 sub(F32 a, F32 b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline F32 mul(F32 a, F32 b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline F32 div(F32 a, F32 b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline F32 sqrt(F32 a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
inline F32 max(F32 a, F32 b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline F32 abs(F32 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}

// a, or b where a is NaN or smaller.
inline F32 max_number(F32 a, F32 b) { return max(a, b); }
// 2^n, from n + 1.5 * 2^23 with n from -127 (then 0) to 127.
inline F32 power_of_two(F32 shifted) {
  const __m256i bias = _mm256_set1_epi32(127);
  const auto power = [=](__m256 a) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(a), bias), 23));
  };
  return {power(shifted.low), power(shifted.high)};
}

// Components 1 0 3 2 …
inline F32 swap_pairs(F32 a) {
  return {_mm256_permute_ps(a.low, 0xb1), _mm256_permute_ps(a.high, 0xb1)};
}

// Components 4 5 6 7 0 1 2 3 12 …
inline F32 swap_fours(F32 a) {
  return {_mm256_permute2f128_ps(a.low, a.low, 1), _mm256_permute2f128_ps(a.high, a.high, 1)};
}

// a where a < limit, else -infinity.
inline F32 below(F32 a, float limit) {
  const __m256 limits = _mm256_set1_ps(limit), none = _mm256_set1_ps(-__builtin_inff());
  return {_mm256_blendv_ps(none, a.low, _mm256_cmp_ps(a.low, limits, _CMP_LT_OQ)),
          _mm256_blendv_ps(none, a.high, _mm256_cmp_ps(a.high, limits, _CMP_LT_OQ))};
}

inline float max_lane(F32 a) {
  const __m256 eight = _mm256_max_ps(a.low, a.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline float fold8(__m256 a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// The canonical fold: lane[i] += lane[i + 8], then 4, 2, 1.
inline float fold(F32 a) { return fold8(_mm256_add_ps(a.low, a.high)); }

inline I32 broadcast_int(int32_t value) {
  return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)};
}
inline I32 load_int(const int32_t* from) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 8))};
}
inline void store_int(int32_t* to, I32 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), a.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8), a.high);
}
inline I32 add(I32 a, I32 b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline F32 to_float(I32 a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }

// To the nearest integer, ties to even.
inline I32 to_int(F32 a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }

// 16 codes of one row: four groups of four.
using Codes = __m256i;
inline Codes pack_codes(I32 a) { return _mm256_packs_epi32(a.low, a.high); }

// Group i of two rows, offset by 128, side by side to `to` + 64 i.
inline void store_codes(Codes first, Codes second, uint8_t* to) {
  // Packing works within halves: groups 0 2 of both rows in the lower one, 1 3 in the upper one.
  const __m256i bytes = _mm256_xor_si256(_mm256_packs_epi16(first, second), _mm256_set1_epi8(-128));
  const __m256i pairs = _mm256_shuffle_epi32(bytes, _MM_SHUFFLE(3, 1, 2, 0));
  const __m128d even = _mm_castsi128_pd(_mm256_castsi256_si128(pairs));
  const __m128d odd = _mm_castsi128_pd(_mm256_extracti128_si256(pairs, 1));
  const auto line = [=](int i) { return reinterpret_cast<double*>(to + 64 * i); };
  _mm_storel_pd(line(0), even);
  _mm_storel_pd(line(1), odd);
  _mm_storeh_pd(line(2), even);
  _mm_storeh_pd(line(3), odd);
}

// 16 codes of a query: int8 as they are, int16 in the order 0 2 1 3 of each four.
inline void store_codes(I32 a, int8_t* to) {
  const __m256i words = _mm256_packs_epi32(a.low, a.high);
  const __m256i bytes = _mm256_packs_epi16(words, words);
  // Packing works within halves: the fours come out in the order 0 2 . . 1 3 . .
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order)));
}
inline void store_codes(I32 a, int16_t* to) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.low, a.high), 0xd8);
  const __m256i swapped = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words, 0xd8), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), swapped);
}

// 16 rows of four codes, and their sums: registers 0 and 1 of a word hold rows 0-7 and 8-15.
inline constexpr int kWordRegisters = 2;
inline constexpr bool kRowsAreOffset = true;
using SumRegister = __m256i;
using CodesRegister = __m256i;
using QueryCodes = __m256i;
inline SumRegister start_sum(int32_t value) { return _mm256_set1_epi32(value); }
inline I32 join(const SumRegister* sums) { return {sums[0], sums[1]}; }
inline CodesRegister load_codes(const uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline QueryCodes broadcast_codes(const int8_t* from) {
  int32_t codes;
  __builtin_memcpy(&codes, from, 4);
  return _mm256_set1_epi32(codes);
}
alignas(32) inline constexpr int16_t kOnes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
// As intrinsics, gcc 12 copies and spills the sums.
inline void dot_codes(SumRegister& sum, CodesRegister rows, QueryCodes query) {
  __m256i products;
  __asm__("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
          : "+x"(sum), "=&x"(products)
          : "x"(rows), "x"(query), "x"(_mm256_set1_epi16(1)));
}

// dot_codes of two fours: their products are added in 16 bits, which the limits of a query's codes
// allow. A multiply less in four; the constant stays in memory for the sake of a register.
inline void dot_two(SumRegister& sum, CodesRegister rows, QueryCodes query, CodesRegister rows2,
                    QueryCodes query2) {
  __m256i products, more;
  __asm__(
      "vpmaddubsw %4, %3, %1\n\tvpmaddubsw %6, %5, %2\n\tvpaddw %2, %1, %1\n\t"
      "vpmaddwd %7, %1, %1\n\tvpaddd %1, %0, %0"
      : "+x"(sum), "=&x"(products), "=&x"(more)
      : "x"(rows), "x"(query), "x"(rows2), "x"(query2), "m"(kOnes));
}

// Queries in 16 bits: components 0 and 2 of four, and 1 and 3.
struct WideCodes {
  __m256i even, odd;
};
inline WideCodes broadcast_wide(const int16_t* from) {
  int32_t codes[2];
  __builtin_memcpy(codes, from, 8);
  return {_mm256_set1_epi32(codes[0]), _mm256_set1_epi32(codes[1])};
}
inline void dot_wide(SumRegister& sum, CodesRegister rows, const WideCodes& query) {
  const __m256i even = _mm256_and_si256(rows, _mm256_set1_epi16(255));
  const __m256i odd = _mm256_srli_epi16(rows, 8);
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, query.even));
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(odd, query.odd));
}

inline SumRegister both(SumRegister a, SumRegister b) { return _mm256_and_si256(a, b); }
inline bool any_not_negative(SumRegister a) {
  return _mm256_movemask_ps(_mm256_castsi256_ps(a)) != 0xff;
}

// Words of a matrix product, by register, with the multiply fused into the add.
inline constexpr int kProductRows = 6;
using FloatRegister = __m256;
inline FloatRegister load_floats(const float* from) { return _mm256_loadu_ps(from); }
inline FloatRegister broadcast_floats(float value) { return _mm256_set1_ps(value); }
inline void store_floats(float* to, FloatRegister a) { _mm256_storeu_ps(to, a); }
// By assembly, because the flags of this file do not name FMA: nothing else here may fuse.
inline void multiply_add(FloatRegister& sum, FloatRegister a, FloatRegister b) {
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
}

// Bit i is set unless lane i < 0; NaN sets it.
inline uint32_t not_negative(F32 a) {
  const __m256 zero = _mm256_setzero_ps();
  const uint32_t low =
      static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.low, zero, _CMP_NLT_UQ)));
  const uint32_t high =
      static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.high, zero, _CMP_NLT_UQ)));
  return low | (high << 8);
}

}  // namespace
}  // namespace memcore

#include "lookup_avx2.h"
