// The vector words without vector instructions. A word is always 16 lanes: the canonical score's
// lanes, a block's rows.
#pragma once

#include <cstdint>

namespace memcore {
namespace {

struct F32 {
  float lane[16];
};
struct I32 {
  int32_t lane[16];
};

inline constexpr int kTileQueries = 2;
inline constexpr int tile_blocks(int n_queries) { return n_queries == 1 ? 2 : 1; }
inline constexpr bool kAddsPairs = false;

inline F32 broadcast(float value) {
  F32 out;
  for (float& lane : out.lane) lane = value;
  return out;
}
inline F32 load(const float* from) {
  F32 out;
  __builtin_memcpy(out.lane, from, sizeof(out.lane));
  return out;
}
inline void store(float* to, const F32& word) {
  __builtin_memcpy(to, word.lane, sizeof(word.lane));
}

inline float bits_to_float(uint32_t bits) {
  float out;
  __builtin_memcpy(&out, &bits, 4);
  return out;
}
inline float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = (half >> 10) & 31;
  const uint32_t fraction = half & 0x3ff;
  // A denormal half is a small integer times 2^-24, exact in float32.
  if (exponent == 0)
    return bits_to_float(sign | 0x3f800000) * (static_cast<float>(fraction) * 0x1p-24f);
  if (exponent == 31) return bits_to_float(sign | 0x7f800000 | (fraction << 13));
  return bits_to_float(sign | ((exponent + 112) << 23) | (fraction << 13));
}
inline F32 load_half(const uint16_t* from) {
  F32 out;
  for (int i = 0; i < 16; ++i) out.lane[i] = half_to_float(from[i]);
  return out;
}
inline F32 load_bfloat(const uint16_t* from) {
  F32 out;
  for (int i = 0; i < 16; ++i) out.lane[i] = bits_to_float(uint32_t{from[i]} << 16);
  return out;
}
inline F32 load_int8(const int8_t* from) {
  F32 out;
  for (int i = 0; i < 16; ++i) out.lane[i] = from[i];
  return out;
}

#define MEMCORE_LANEWISE(name, expression)      \
  inline F32 name(const F32& a, const F32& b) { \
    F32 out;                                    \
    for (int i = 0; i < 16; ++i) {              \
      const float x = a.lane[i], y = b.lane[i]; \
      out.lane[i] = (expression);               \
    }                                           \
    return out;                                 \
  }
MEMCORE_LANEWISE(add, x + y)
MEMCORE_LANEWISE(sub, x - y)
MEMCORE_LANEWISE(mul, x* y)
MEMCORE_LANEWISE(div, x / y)
MEMCORE_LANEWISE(max, x > y ? x : y)
#undef MEMCORE_LANEWISE

// a, or b where a is NaN or smaller.
inline F32 max_number(const F32& a, const F32& b) { return max(a, b); }
// 2^n, from n + 1.5 * 2^23 with n from -127 (then 0) to 127.
inline F32 power_of_two(const F32& shifted) {
  F32 out;
  for (int i = 0; i < 16; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, &shifted.lane[i], 4);
    out.lane[i] = bits_to_float((bits + 127) << 23);
  }
  return out;
}

inline F32 abs(const F32& a) {
  F32 out;
  for (int i = 0; i < 16; ++i) out.lane[i] = __builtin_fabsf(a.lane[i]);
  return out;
}

inline F32 sqrt(const F32& a) {
  F32 out;
  for (int i = 0; i < 16; ++i) out.lane[i] = __builtin_sqrtf(a.lane[i]);
  return out;
}

// Components 1 0 3 2 …
inline F32 swap_pairs(const F32& a) {
  F32 out;
  for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i ^ 1];
  return out;
}

// Components 4 5 6 7 0 1 2 3 12 …
inline F32 swap_fours(const F32& a) {
  F32 out;
  for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i ^ 4];
  return out;
}

// a where a < limit, else -infinity.
inline F32 below(const F32& a, float limit) {
  F32 out;
  for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i] < limit ? a.lane[i] : -__builtin_inff();
  return out;
}

inline float max_lane(const F32& a) {
  float best = a.lane[0];
  for (int i = 1; i < 16; ++i) best = a.lane[i] > best ? a.lane[i] : best;
  return best;
}

// The canonical fold: lane[i] += lane[i + 8], then 4, 2, 1.
inline float fold(const F32& a) {
  float lane[16];
  __builtin_memcpy(lane, a.lane, sizeof(lane));
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

inline I32 broadcast_int(int32_t value) {
  I32 out;
  for (int32_t& lane : out.lane) lane = value;
  return out;
}
inline I32 load_int(const int32_t* from) {
  I32 out;
  __builtin_memcpy(out.lane, from, sizeof(out.lane));
  return out;
}
inline void store_int(int32_t* to, const I32& word) {
  __builtin_memcpy(to, word.lane, sizeof(word.lane));
}
inline I32 add(const I32& a, const I32& b) {
  I32 out;
  // Modulo 2^32, as the sums are.
  for (int i = 0; i < 16; ++i)
    out.lane[i] =
        static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) + static_cast<uint32_t>(b.lane[i]));
  return out;
}
inline F32 to_float(const I32& a) {
  F32 out;
  for (int i = 0; i < 16; ++i) out.lane[i] = static_cast<float>(a.lane[i]);
  return out;
}

// To the nearest integer, ties to even, for lanes of less than 2^22.
inline I32 to_int(const F32& a) {
  I32 out;
  for (int i = 0; i < 16; ++i) {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    const float shifted = a.lane[i] + 0x1.8p23f;
    uint32_t bits;
    __builtin_memcpy(&bits, &shifted, 4);
    out.lane[i] = static_cast<int32_t>(bits - 0x4b400000u);
  }
  return out;
}

// 16 codes of one row: four groups of four.
struct Codes {
  int8_t code[16];
};
inline Codes pack_codes(const I32& a) {
  Codes out;
  for (int i = 0; i < 16; ++i) out.code[i] = static_cast<int8_t>(a.lane[i]);
  return out;
}

// Group i of two rows, offset by 128, side by side to `to` + 64 i.
inline void store_codes(const Codes& first, const Codes& second, uint8_t* to) {
  for (int i = 0; i < 16; ++i) {
    uint8_t* at = to + 64 * (i / 4) + i % 4;
    at[0] = static_cast<uint8_t>(first.code[i] + 128);
    at[4] = static_cast<uint8_t>(second.code[i] + 128);
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

// 16 rows of four codes, and their sums.
inline constexpr int kWordRegisters = 1;
inline constexpr bool kRowsAreOffset = true;
using SumRegister = I32;
struct CodesRegister {
  uint8_t byte[64];
};
inline SumRegister start_sum(int32_t value) { return broadcast_int(value); }
inline I32 join(const SumRegister* sums) { return *sums; }
inline CodesRegister load_codes(const uint8_t* from) {
  CodesRegister out;
  __builtin_memcpy(out.byte, from, 64);
  return out;
}
struct QueryCodes {
  int8_t byte[4];
};
inline QueryCodes broadcast_codes(const int8_t* from) {
  QueryCodes out;
  __builtin_memcpy(out.byte, from, 4);
  return out;
}
inline void dot_codes(SumRegister& sum, const CodesRegister& rows, const QueryCodes& query) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 4; ++j) sum.lane[i] += int32_t{rows.byte[4 * i + j]} * query.byte[j];
  }
}

// dot_codes of two fours.
inline void dot_two(SumRegister& sum, const CodesRegister& rows, const QueryCodes& query,
                    const CodesRegister& rows2, const QueryCodes& query2) {
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
inline void dot_wide(SumRegister& sum, const CodesRegister& rows, const WideCodes& query) {
  for (int i = 0; i < 16; ++i) {
    const uint8_t* row = rows.byte + 4 * i;
    // Unsigned, because the sum may pass the range of int32 on its way.
    uint32_t total = static_cast<uint32_t>(sum.lane[i]);
    total += static_cast<uint32_t>(row[0] * query.code[0] + row[2] * query.code[1]);
    total += static_cast<uint32_t>(row[1] * query.code[2] + row[3] * query.code[3]);
    sum.lane[i] = static_cast<int32_t>(total);
  }
}

inline SumRegister both(const SumRegister& a, const SumRegister& b) {
  SumRegister out;
  for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i] & b.lane[i];
  return out;
}
inline bool any_not_negative(const SumRegister& a) {
  bool any = false;
  for (int i = 0; i < 16; ++i) any |= a.lane[i] >= 0;
  return any;
}

// Words of a matrix product.
inline constexpr int kProductRows = 2;
using FloatRegister = F32;
inline FloatRegister load_floats(const float* from) { return load(from); }
inline FloatRegister broadcast_floats(float value) { return broadcast(value); }
inline void store_floats(float* to, const FloatRegister& a) { store(to, a); }
inline void multiply_add(FloatRegister& sum, const FloatRegister& a, const FloatRegister& b) {
  for (int i = 0; i < 16; ++i) sum.lane[i] += a.lane[i] * b.lane[i];
}

// Bit i is set unless lane i < 0; NaN sets it.
inline uint32_t not_negative(const F32& a) {
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= uint32_t{!(a.lane[i] < 0.0f)} << i;
  return mask;
}

}  // namespace
}  // namespace memcore

#include "lookup_plain.h"
