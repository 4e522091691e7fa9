// Table look-ups without vector instructions.
#pragma once

#include <cstdint>

#include "lsh_kernels.h"

namespace memcore {
namespace {

inline void make_tables(const F32* words, uint8_t* out) {
  int16_t steps[64];
  for (int i = 0; i < 4; ++i) {
    float word[16];
    store(word, words[i]);
    for (int j = 0; j < 16; ++j) {
      // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
      const float shifted = word[j] + 0x1.8p23f;
      uint32_t bits;
      __builtin_memcpy(&bits, &shifted, 4);
      steps[16 * i + j] = static_cast<int16_t>(bits & 0xffff);
    }
  }
  for (int pair = 0; pair < 8; ++pair) {
    for (int side = 0; side < 2; ++side) {
      for (int e = 0; e < 8; ++e) {
        int32_t sum = kTableShift;
        for (int i = 0; i < 4; ++i) {
          const int32_t step = steps[quad_component(pair, side, i)];
          sum += i > 0 && (e >> (i - 1) & 1) != 0 ? -step : step;
        }
        out[32 * pair + 8 * side + e] = static_cast<uint8_t>(sum & 255);
        out[32 * pair + 16 + 8 * side + e] = static_cast<uint8_t>(sum >> 8);
      }
    }
  }
}

inline constexpr int kRegisterPlanes = 16;
inline constexpr int kProjectRows = 1;
struct Bytes {
  uint8_t byte[32];
};
struct Sums16 {
  int16_t lane[16];
};

inline Bytes load_bytes(const uint8_t* from) {
  Bytes out;
  __builtin_memcpy(out.byte, from, sizeof(out.byte));
  return out;
}
inline Bytes repeat_table(const uint8_t* from) {
  Bytes out;
  __builtin_memcpy(out.byte, from, 16);
  __builtin_memcpy(out.byte + 16, from, 16);
  return out;
}
inline Sums16 load_sums(const int16_t* from) {
  Sums16 out;
  __builtin_memcpy(out.lane, from, sizeof(out.lane));
  return out;
}
inline void add_lookups(Sums16& sums, const Bytes& table, const Bytes& index, const Bytes& signs) {
  for (int p = 0; p < 16; ++p) {
    int32_t sum = sums.lane[p];
    for (int i = 2 * p; i < 2 * p + 2; ++i) {
      sum += int32_t{table.byte[index.byte[i]]} * static_cast<int8_t>(signs.byte[i]);
    }
    sums.lane[p] = static_cast<int16_t>(sum);
  }
}
inline void store_sums(int32_t* to, const Sums16& high, const Sums16& low) {
  for (int p = 0; p < 16; ++p) to[p] = 256 * high.lane[p] + low.lane[p];
}

}  // namespace
}  // namespace memcore
