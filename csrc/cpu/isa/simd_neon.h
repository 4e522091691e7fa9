// The vector words on NEON with the dot product extension: four registers a word.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace memcore {
namespace {

struct F32 {
  float32x4_t part[4];
};
struct I32 {
  int32x4_t part[4];
};

// 32 registers: 16 of them hold sums.
inline constexpr int kTileQueries = 4;
inline constexpr int tile_blocks(int n_queries) {
  return n_queries == 1 ? 4 : n_queries == 2 ? 2 : 1;
}
inline constexpr bool kAddsPairs = false;

#define MEMCORE_EACH_PART(expression)                                                \
  {                                                                                  \
    {                                                                                \
      [&](int i) { return expression; }(0), [&](int i) { return expression; }(1),    \
          [&](int i) { return expression; }(2), [&](int i) { return expression; }(3) \
    }                                                                                \
  }

inline F32 broadcast(float value) { return MEMCORE_EACH_PART((void(i), vdupq_n_f32(value))); }
inline F32 load(const float* from) { return MEMCORE_EACH_PART(vld1q_f32(from + 4 * i)); }
inline void store(float* to, F32 a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, a.part[i]);
}
inline F32 load_half(const uint16_t* from) {
  return MEMCORE_EACH_PART(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + 4 * i))));
}
inline F32 load_bfloat(const uint16_t* from) {
  return MEMCORE_EACH_PART(vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from + 4 * i), 16)));
}
inline F32 load_int8(const int8_t* from) {
  const int8x16_t bytes = vld1q_s8(from);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

inline F32 add(F32 a, F32 b) { return MEMCORE_EACH_PART(vaddq_f32(a.part[i], b.part[i])); }
inline F32 sub(F32 a, F32 b) { return MEMCORE_EACH_PART(vsubq_f32(a.part[i], b.part[i])); }
inline F32 mul(F32 a, F32 b) { return MEMCORE_EACH_PART(vmulq_f32(a.part[i], b.part[i])); }
inline F32 div(F32 a, F32 b) { return MEMCORE_EACH_PART(vdivq_f32(a.part[i], b.part[i])); }
inline F32 sqrt(F32 a) { return MEMCORE_EACH_PART(vsqrtq_f32(a.part[i])); }
inline F32 max(F32 a, F32 b) { return MEMCORE_EACH_PART(vmaxq_f32(a.part[i], b.part[i])); }
inline F32 abs(F32 a) { return MEMCORE_EACH_PART(vabsq_f32(a.part[i])); }

// a, or b where a is NaN or smaller.
inline F32 max_number(F32 a, F32 b) { return MEMCORE_EACH_PART(vmaxnmq_f32(a.part[i], b.part[i])); }
// 2^n, from n + 1.5 * 2^23 with n from -127 (then 0) to 127.
inline F32 power_of_two(F32 shifted) {
  return MEMCORE_EACH_PART(vreinterpretq_f32_s32(
      vshlq_n_s32(vaddq_s32(vreinterpretq_s32_f32(shifted.part[i]), vdupq_n_s32(127)), 23)));
}

// Components 1 0 3 2 …
inline F32 swap_pairs(F32 a) { return MEMCORE_EACH_PART(vrev64q_f32(a.part[i])); }
// Components 4 5 6 7 0 1 2 3 12 …
inline F32 swap_fours(F32 a) { return MEMCORE_EACH_PART(a.part[i ^ 1]); }

// a where a < limit, else -infinity.
inline F32 below(F32 a, float limit) {
  const float32x4_t limits = vdupq_n_f32(limit), none = vdupq_n_f32(-__builtin_inff());
  return MEMCORE_EACH_PART(vbslq_f32(vcltq_f32(a.part[i], limits), a.part[i], none));
}

inline float max_lane(F32 a) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.part[0], a.part[1]), vmaxq_f32(a.part[2], a.part[3])));
}

// The canonical fold: lane[i] += lane[i + 8], then 4, 2, 1.
inline float fold(F32 a) {
  const float32x4_t four =
      vaddq_f32(vaddq_f32(a.part[0], a.part[2]), vaddq_f32(a.part[1], a.part[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

inline I32 broadcast_int(int32_t value) { return MEMCORE_EACH_PART((void(i), vdupq_n_s32(value))); }
inline I32 load_int(const int32_t* from) { return MEMCORE_EACH_PART(vld1q_s32(from + 4 * i)); }
inline void store_int(int32_t* to, I32 a) {
  for (int i = 0; i < 4; ++i) vst1q_s32(to + 4 * i, a.part[i]);
}
inline I32 add(I32 a, I32 b) { return MEMCORE_EACH_PART(vaddq_s32(a.part[i], b.part[i])); }
inline F32 to_float(I32 a) { return MEMCORE_EACH_PART(vcvtq_f32_s32(a.part[i])); }

// To the nearest integer, ties to even.
inline I32 to_int(F32 a) { return MEMCORE_EACH_PART(vcvtnq_s32_f32(a.part[i])); }

// 16 codes of one row: four groups of four.
using Codes = int8x16_t;
inline Codes pack_codes(I32 a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.part[0]), vmovn_s32(a.part[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.part[2]), vmovn_s32(a.part[3]));
  return vcombine_s8(vmovn_s16(low), vmovn_s16(high));
}

// Group i of two rows, offset by 128, side by side to `to` + 64 i.
inline void store_codes(Codes first, Codes second, uint8_t* to) {
  const uint32x4x2_t pairs = vzipq_u32(vreinterpretq_u32_s8(first), vreinterpretq_u32_s8(second));
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t codes = veorq_u8(vreinterpretq_u8_u32(pairs.val[i / 2]), vdupq_n_u8(128));
    vst1_u8(to + 64 * i, i % 2 == 0 ? vget_low_u8(codes) : vget_high_u8(codes));
  }
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

// 16 rows of four codes, and their sums. sdot wants signed rows: the offset of 128 comes off at the
// load.
inline constexpr int kWordRegisters = 4;
inline constexpr bool kRowsAreOffset = false;
using SumRegister = int32x4_t;
using CodesRegister = int8x16_t;
using QueryCodes = int8x16_t;
inline SumRegister start_sum(int32_t value) { return vdupq_n_s32(value); }
inline I32 join(const SumRegister* sums) { return {{sums[0], sums[1], sums[2], sums[3]}}; }
inline CodesRegister load_codes(const uint8_t* from) {
  return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from), vdupq_n_u8(128)));
}
inline QueryCodes broadcast_codes(const int8_t* from) {
  int32_t codes;
  __builtin_memcpy(&codes, from, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(codes));
}
inline void dot_codes(SumRegister& sum, CodesRegister rows, QueryCodes query) {
  sum = vdotq_s32(sum, rows, query);
}

// dot_codes of two fours.
inline void dot_two(SumRegister& sum, CodesRegister rows, QueryCodes query, CodesRegister rows2,
                    QueryCodes query2) {
  dot_codes(sum, rows, query);
  dot_codes(sum, rows2, query2);
}

// Queries in 16 bits: components 0 and 2 of four, and 1 and 3.
struct WideCodes {
  int16_t code[4];
};
inline WideCodes broadcast_wide(const int16_t* from) {
  WideCodes out;
  __builtin_memcpy(out.code, from, 8);
  return out;
}
inline void dot_wide(SumRegister& sum, CodesRegister rows, const WideCodes& query) {
  const int32x4_t fours = vreinterpretq_s32_s8(rows);
  sum = vmlaq_n_s32(sum, vshrq_n_s32(vshlq_n_s32(fours, 24), 24), query.code[0]);
  sum = vmlaq_n_s32(sum, vshrq_n_s32(vshlq_n_s32(fours, 8), 24), query.code[1]);
  sum = vmlaq_n_s32(sum, vshrq_n_s32(vshlq_n_s32(fours, 16), 24), query.code[2]);
  sum = vmlaq_n_s32(sum, vshrq_n_s32(fours, 24), query.code[3]);
}

inline SumRegister both(SumRegister a, SumRegister b) { return vandq_s32(a, b); }
inline bool any_not_negative(SumRegister a) { return vmaxvq_s32(a) >= 0; }

// Words of a matrix product, by register, with the multiply fused into the add.
inline constexpr int kProductRows = 6;
using FloatRegister = float32x4_t;
inline FloatRegister load_floats(const float* from) { return vld1q_f32(from); }
inline FloatRegister broadcast_floats(float value) { return vdupq_n_f32(value); }
inline void store_floats(float* to, FloatRegister a) { vst1q_f32(to, a); }
inline void multiply_add(FloatRegister& sum, FloatRegister a, FloatRegister b) {
  sum = vfmaq_f32(sum, a, b);
}

// Bit i is set unless lane i < 0; NaN sets it.
inline uint32_t not_negative(F32 a) {
  static const uint32_t kBits[4] = {1, 2, 4, 8};
  const uint32x4_t bits = vld1q_u32(kBits);
  uint32_t mask = 0;
  for (int i = 0; i < 4; ++i)
    mask |= (15u ^ vaddvq_u32(vandq_u32(vcltzq_f32(a.part[i]), bits))) << (4 * i);
  return mask;
}

#undef MEMCORE_EACH_PART

}  // namespace
}  // namespace memcore

#include "lookup_plain.h"
