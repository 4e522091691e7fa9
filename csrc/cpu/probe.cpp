#include "probe.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

#include "kernels.h"

namespace memcore {
namespace {

// Runs work() until `seconds` are over; returns units per second, where one call is `units`.
template <typename Work>
double rate(double units, double seconds, const Work& work) {
  using Clock = std::chrono::steady_clock;
  work();
  const auto start = Clock::now();
  double elapsed = 0;
  int64_t n_calls = 0;
  do {
    work();
    ++n_calls;
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  } while (elapsed < seconds);
  return units * static_cast<double>(n_calls) / elapsed;
}

enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Vnni };

Isa best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return Isa::kAvx512Vnni;
  if (__builtin_cpu_supports("avx512bw")) return Isa::kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

// The loops are assembly so that no compiler flag decides what is measured, and so that every
// accumulator stays in a register: twelve of them hide the latency.
#if defined(__x86_64__)
#define PROBE_CLOBBERS                                                                     \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory"
#define PROBE_EACH4(op, r, a, b, c, d) op(r, a) op(r, b) op(r, c) op(r, d)
#define PROBE_EACH12(op, r)      \
  PROBE_EACH4(op, r, 0, 1, 2, 3) \
  PROBE_EACH4(op, r, 4, 5, 6, 7) \
  PROBE_EACH4(op, r, 8, 9, 10, 11)
#define PROBE_ZERO(r, i) "vpxor %%xmm" #i ",%%xmm" #i ",%%xmm" #i "\n"
#define PROBE_FMA(r, i) "vfmadd231ps %%" r "14,%%" r "15,%%" r #i "\n"
#define PROBE_VNNI(r, i) "vpdpbusd %%" r "14,%%" r "15,%%" r #i "\n"
#define PROBE_LOOP(body)                                                                      \
  asm volatile(PROBE_EACH12(PROBE_ZERO, "") PROBE_ZERO("", 12) PROBE_ZERO("", 13) PROBE_ZERO( \
                   "", 14) PROBE_ZERO("", 15) "1:\n" body "dec %0\n jnz 1b\n vzeroupper\n"    \
               : "+r"(n)                                                                      \
               :                                                                              \
               : PROBE_CLOBBERS)

void fma_avx2(int64_t n) { PROBE_LOOP(PROBE_EACH12(PROBE_FMA, "ymm")); }
void fma_avx512(int64_t n) { PROBE_LOOP(PROBE_EACH12(PROBE_FMA, "zmm")); }
void int8_vnni(int64_t n) { PROBE_LOOP(PROBE_EACH12(PROBE_VNNI, "zmm")); }

// Without VNNI a step is three instructions: bytes to pairs, pairs to fours, add. Register 13
// stands for the ones.
#define PROBE_STEP(r, acc, pair)                \
  "vpmaddubsw %%" r "14,%%" r "15,%%" r #pair   \
  "\n"                                          \
  "vpmaddwd %%" r "13,%%" r #pair ",%%" r #pair \
  "\n"                                          \
  "vpaddd %%" r #pair ",%%" r #acc ",%%" r #acc "\n"
#define PROBE_STEPS(r) \
  PROBE_STEP(r, 0, 6)  \
  PROBE_STEP(r, 1, 7)  \
  PROBE_STEP(r, 2, 8) PROBE_STEP(r, 3, 9) PROBE_STEP(r, 4, 10) PROBE_STEP(r, 5, 11)
void int8_avx2(int64_t n) { PROBE_LOOP(PROBE_STEPS("ymm")); }
void int8_avx512(int64_t n) { PROBE_LOOP(PROBE_STEPS("zmm")); }

// 512 bytes a step, added into nothing: the loads are the work.
#define PROBE_LOAD(reg, at) "vmovdqu " #at "(%0),%%" reg "\n"
void read_avx2(const uint8_t* data, int64_t n_steps) {
  asm volatile("1:\n" PROBE_LOAD("ymm0", 0) PROBE_LOAD("ymm1", 32) PROBE_LOAD("ymm2", 64)
                   PROBE_LOAD("ymm3", 96) PROBE_LOAD("ymm4", 128) PROBE_LOAD("ymm5", 160)
                       PROBE_LOAD("ymm6", 192)
                           PROBE_LOAD("ymm7", 224) "add $256,%0\n dec %1\n jnz 1b\n vzeroupper\n"
               : "+r"(data), "+r"(n_steps)
               :
               : PROBE_CLOBBERS);
}
#undef PROBE_LOAD
#define PROBE_LOAD(reg, at) "vmovdqu64 " #at "(%0),%%" reg "\n"
void read_avx512(const uint8_t* data, int64_t n_steps) {
  asm volatile("1:\n" PROBE_LOAD("zmm0", 0) PROBE_LOAD("zmm1", 64) PROBE_LOAD("zmm2", 128)
                   PROBE_LOAD("zmm3", 192) "add $256,%0\n dec %1\n jnz 1b\n vzeroupper\n"
               : "+r"(data), "+r"(n_steps)
               :
               : PROBE_CLOBBERS);
}
#endif

volatile float g_float_sink;
volatile uint64_t g_word_sink;

void fma_portable(int64_t n) {
  float sums[64] = {};
  for (int64_t i = 0; i < n; ++i)
    for (int lane = 0; lane < 64; ++lane) sums[lane] = sums[lane] * 0.5f + 1.0f;
  for (float sum : sums) g_float_sink = sum;
}

void int8_portable(int64_t n) {
  int32_t sums[16] = {};
  for (int64_t i = 0; i < n; ++i)
    for (int lane = 0; lane < 64; ++lane)
      sums[lane % 16] += static_cast<int8_t>(i + lane) * static_cast<int8_t>(lane);
  for (int32_t sum : sums) g_word_sink = static_cast<uint64_t>(sum);
}

void read_portable(const uint8_t* data, int64_t n_steps) {
  uint64_t sums[4] = {};
  for (int64_t i = 0; i < n_steps * 256; i += 32)
    for (int word = 0; word < 4; ++word)
      sums[word] += *reinterpret_cast<const uint64_t*>(data + i + 8 * word);
  g_word_sink = sums[0] + sums[1] + sums[2] + sums[3];
}

void read(const uint8_t* data, int64_t n_bytes) {
  const int64_t n_steps = n_bytes / 256;
  if (n_steps <= 0) return;
#if defined(__x86_64__)
  if (best_isa() >= Isa::kAvx512) return read_avx512(data, n_steps);
  if (best_isa() == Isa::kAvx2) return read_avx2(data, n_steps);
#endif
  read_portable(data, n_steps);
}

// Queries that look at a block while it is in the cache, as in a search.
constexpr int64_t kScanTileQueries = 96;

// Enough steps that the clock is not what is measured.
constexpr int64_t kSteps = 1 << 18;

}  // namespace

double probe_read(const uint8_t* data, int64_t n_bytes, double seconds) {
  const int64_t whole = n_bytes / 256 * 256;
  return rate(static_cast<double>(whole), seconds, [&] { read(data, whole); });
}

double probe_gather(const uint8_t* data, const int64_t* offsets, int64_t n_chunks,
                    int64_t chunk_bytes, double seconds) {
  const int64_t whole = chunk_bytes / 256 * 256;
  return rate(static_cast<double>(n_chunks * whole), seconds, [&] {
    for (int64_t i = 0; i < n_chunks; ++i) {
      if (i + 1 < n_chunks) {
        const uint8_t* next = data + offsets[i + 1];
        for (int64_t at = 0; at < whole; at += 64) __builtin_prefetch(next + at);
      }
      read(data + offsets[i], whole);
    }
  });
}

double probe_float32(double seconds) {
#if defined(__x86_64__)
  if (best_isa() >= Isa::kAvx512)
    return rate(2.0 * 12 * 16 * kSteps, seconds, [] { fma_avx512(kSteps); });
  if (best_isa() == Isa::kAvx2)
    return rate(2.0 * 12 * 8 * kSteps, seconds, [] { fma_avx2(kSteps); });
#endif
  return rate(2.0 * 64 * kSteps, seconds, [] { fma_portable(kSteps); });
}

double probe_int8(double seconds) {
#if defined(__x86_64__)
  if (best_isa() == Isa::kAvx512Vnni)
    return rate(2.0 * 12 * 64 * kSteps, seconds, [] { int8_vnni(kSteps); });
  if (best_isa() == Isa::kAvx512)
    return rate(2.0 * 6 * 64 * kSteps, seconds, [] { int8_avx512(kSteps); });
  if (best_isa() == Isa::kAvx2)
    return rate(2.0 * 6 * 32 * kSteps, seconds, [] { int8_avx2(kSteps); });
#endif
  return rate(2.0 * 64 * kSteps, seconds, [] { int8_portable(kSteps); });
}

double probe_first_pass(int64_t n_blocks, int64_t dim, int64_t n_queries, double seconds) {
  n_blocks = (n_blocks + kScanBlocks - 1) / kScanBlocks * kScanBlocks;
  const std::vector<uint8_t> slab(n_blocks * block_bytes(dim), 129);
  const std::vector<int8_t> codes((dim + 15) / 16 * 16, 1);
  // No row reaches this offset, so no mask has a bit and no candidate costs anything.
  const ScanQuery query = {
      codes.data(), nullptr, 0, 0.0f, 1.0f, 0.0f, 0.0f, 0.0f, std::numeric_limits<float>::lowest()};
  const int64_t tile = std::min(n_queries, kScanTileQueries);
  const std::vector<ScanQuery> queries(tile, query);
  std::vector<uint16_t> masks(tile * kScanBlocks);
  std::vector<int32_t> dots(tile * kScanBlocks * kBlockRows);
  const int64_t n_tiles = (n_queries + tile - 1) / tile;
  const double work = 2.0 * static_cast<double>(n_blocks * kBlockRows * dim * n_tiles * tile);
  return rate(work, seconds, [&] {
    for (int64_t t = 0; t < n_tiles; ++t) {
      for (int64_t b = 0; b < n_blocks; b += kScanBlocks) {
        const uint8_t* blocks[kScanBlocks];
        const uint8_t* next[kScanBlocks];
        for (int64_t i = 0; i < kScanBlocks; ++i) {
          blocks[i] = slab.data() + (b + i) * block_bytes(dim);
          next[i] = slab.data() + (b + kScanBlocks + i) % n_blocks * block_bytes(dim);
        }
        kernels().scan(blocks, next, kScanBlocks, dim, queries.data(), tile, masks.data(),
                       dots.data());
      }
    }
  });
}

const char* probe_isa() {
  switch (best_isa()) {
    case Isa::kAvx512Vnni: return "avx512vnni";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx2: return "avx2";
    case Isa::kPortable: break;
  }
  return "portable";
}

}  // namespace memcore
