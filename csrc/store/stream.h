#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace memcore {

// A write of at least this many bytes goes past the cache: it would not find its lines there, and
// would leave too many for the next reader to find them.
inline constexpr int64_t kStreamedBytes = int64_t{1} << 20;

// memcpy past the cache, which saves reading the lines that are written; `ahead`, where a later
// copy begins, is read into the cache on the way. Before another thread reads what was written,
// stream_fence.
inline void stream_copy(uint8_t* to, const uint8_t* from, int64_t n_bytes, const uint8_t* ahead) {
  constexpr int64_t kLine = 64;
#if defined(__SSE2__)
  if (reinterpret_cast<uintptr_t>(to) % kLine == 0 && n_bytes % kLine == 0) {
    for (int64_t at = 0; at < n_bytes; at += kLine) {
      const auto* source = reinterpret_cast<const __m128i*>(from + at);
      auto* target = reinterpret_cast<__m128i*>(to + at);
      __builtin_prefetch(ahead + at);
      const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
      const __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
      _mm_stream_si128(target, a);
      _mm_stream_si128(target + 1, b);
      _mm_stream_si128(target + 2, c);
      _mm_stream_si128(target + 3, d);
    }
    return;
  }
#endif
  for (int64_t at = 0; at < n_bytes; at += kLine) __builtin_prefetch(ahead + at);
  std::memcpy(to, from, static_cast<size_t>(n_bytes));
}

inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace memcore
