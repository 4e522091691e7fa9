// The inner loops of Hamming search.

namespace memcore {
namespace {

template <int kWords>
int64_t distance_of(const uint64_t* query, const uint64_t* code, int64_t n_words) {
  int64_t distance = 0;
  if constexpr (kWords > 0) {
#pragma GCC unroll 4
    for (int w = 0; w < kWords; ++w) distance += __builtin_popcountll(query[w] ^ code[w]);
  } else {
    for (int64_t w = 0; w < n_words; ++w) distance += __builtin_popcountll(query[w] ^ code[w]);
  }
  return distance;
}

template <int kWords>
int64_t within_words(const uint64_t* query, const uint64_t* codes, int64_t n, int64_t n_words,
                     int64_t limit, int32_t* out) {
  constexpr int64_t kStep = 8;
  // Bytes: the processor's own prefetcher stays too near.
  constexpr int64_t kAhead = 2048;
  uint64_t own[kWords > 0 ? kWords : 1];
  if constexpr (kWords > 0) {
    for (int w = 0; w < kWords; ++w) own[w] = query[w];
    query = own;
  }
  const int64_t stride = kWords > 0 ? kWords : n_words;
  const int64_t past = -limit - 1;
  int64_t n_out = 0, i = 0;
  for (; i + kStep <= n; i += kStep) {
    for (int64_t w = 0; w < stride; ++w) {
      __builtin_prefetch(reinterpret_cast<const char*>(codes + i * stride + 8 * w) + kAhead);
    }
    // Not negative as long as every code is too far.
    int64_t any = 0;
#pragma GCC unroll 8
    for (int64_t j = 0; j < kStep; ++j) {
      any |= distance_of<kWords>(query, codes + (i + j) * stride, n_words) + past;
    }
    if (any >= 0) [[likely]]
      continue;
    for (int64_t j = i; j < i + kStep; ++j) {
      if (distance_of<kWords>(query, codes + j * stride, n_words) <= limit) {
        out[n_out++] = static_cast<int32_t>(j);
      }
    }
  }
  for (; i < n; ++i) {
    if (distance_of<kWords>(query, codes + i * stride, n_words) <= limit) {
      out[n_out++] = static_cast<int32_t>(i);
    }
  }
  return n_out;
}

int64_t within(const uint64_t* query, const uint64_t* codes, int64_t n, int64_t n_words,
               int64_t limit, int32_t* out) {
  switch (n_words) {
    case 1: return within_words<1>(query, codes, n, n_words, limit, out);
    case 2: return within_words<2>(query, codes, n, n_words, limit, out);
    case 4: return within_words<4>(query, codes, n, n_words, limit, out);
    default: return within_words<0>(query, codes, n, n_words, limit, out);
  }
}

void within_nibbles(const uint8_t* const* tables, const uint8_t* limits, const uint8_t* nibbles,
                    int64_t n_nibbles, int64_t n_groups, uint64_t* masks) {
  constexpr int kRegisters = kNibbleGroup / sizeof(Bytes);
  const uint8_t *first = tables[0], *second = tables[1];
  for (int64_t g = 0; g < n_groups; ++g, nibbles += n_nibbles * kNibbleGroup) {
    Bytes near_first[kRegisters], near_second[kRegisters];
#pragma GCC unroll 4
    for (int r = 0; r < kRegisters; ++r) near_first[r] = near_second[r] = zero_bytes();
    for (int64_t j = 0; j < n_nibbles; ++j) {
      const Bytes one = repeat_table(first + 16 * j), two = repeat_table(second + 16 * j);
#pragma GCC unroll 4
      for (int r = 0; r < kRegisters; ++r) {
        const Bytes index =
            load_bytes(nibbles + j * kNibbleGroup + r * static_cast<int64_t>(sizeof(Bytes)));
        add_distances(near_first[r], one, index);
        add_distances(near_second[r], two, index);
      }
    }
    store_at_most(near_first, limits[0], masks + g * 2);
    store_at_most(near_second, limits[1], masks + (n_groups + g) * 2);
  }
}

constexpr HammingKernels kHammingKernels = {within, within_nibbles};

}  // namespace
}  // namespace memcore
