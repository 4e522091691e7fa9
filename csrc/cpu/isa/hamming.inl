// The inner loops of Hamming search.

#include "bits.h"

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
    if constexpr (kWords == 1) {
      if (!any_within(query[0], codes + i, limit)) [[likely]]
        continue;
    } else {
      // Not negative as long as every code is too far.
      int64_t any = 0;
#pragma GCC unroll 8
      for (int64_t j = 0; j < kStep; ++j) {
        any |= distance_of<kWords>(query, codes + (i + j) * stride, n_words) + past;
      }
      if (any >= 0) [[likely]]
        continue;
    }
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

// Row i, bit b becomes row b, bit i, in each lane.
void transpose(Bits* rows) {
  uint64_t low = ~uint64_t{0};
  for (int width = 32; width > 0; width /= 2) {
    low ^= low << width;
    for (int first = 0; first < 64; first = (first + width + 1) & ~width) {
      Bits &a = rows[first], &b = rows[first + width];
      const Bits different = ((a >> width) ^ b) & low;
      a ^= different << width;
      b ^= different;
    }
  }
}

void slice(const uint64_t* codes, int64_t n, int64_t n_words, uint64_t* scratch, uint64_t* tables) {
  auto* bits = reinterpret_cast<Bits*>(scratch);
  for (int64_t w = 0; w < n_words; ++w) {
    for (int64_t i = 0; i < 64; ++i) {
      uint64_t* row = scratch + (64 * w + i) * kSliceLanes;
      for (int64_t lane = 0; lane < kSliceLanes; ++lane) {
        const int64_t code = 64 * lane + i;
        row[lane] = code < n ? codes[code * n_words + w] : 0;
      }
    }
    transpose(bits + 64 * w);
  }
  // Each majority takes three bits and adds their parity behind the last; the very last takes two.
  const int64_t n_bits = 64 * n_words, n_majorities = n_bits / 2;
  bits[n_bits + n_majorities - 1] = Bits{};
  auto* forms = reinterpret_cast<Bits*>(tables);
  for (int64_t m = 0; m < n_majorities; ++m, forms += kForms) {
    const Bits a = bits[3 * m], b = bits[3 * m + 1], c = bits[3 * m + 2];
    majority(a, b, c, forms[0]);
    majority(~a, b, c, forms[1]);
    majority(a, ~b, c, forms[2]);
    majority(a, b, ~c, forms[4]);
    forms[7] = ~forms[0];
    forms[6] = ~forms[1];
    forms[5] = ~forms[2];
    forms[3] = ~forms[4];
    bits[n_bits + m] = a ^ b ^ c;
  }
  *forms = bits[n_bits + n_majorities - 1];
}

// Adds 2^kLevel majorities: the low bits into `sums`, what is left to `carry`.
template <int kLevel>
__attribute__((always_inline)) inline void add_majorities(const uint8_t* tables,
                                                          const uint8_t* forms, Bits* sums,
                                                          Bits& carry) {
  if constexpr (kLevel == 0) {
    carry = *reinterpret_cast<const Bits*>(tables + *forms);
  } else {
    constexpr int64_t kHalf = int64_t{1} << (kLevel - 1);
    Bits a, b;
    add_majorities<kLevel - 1>(tables, forms, sums, a);
    add_majorities<kLevel - 1>(tables + kHalf * kForms * static_cast<int64_t>(sizeof(Bits)),
                               forms + kHalf, sums, b);
    carry_save(sums[kLevel - 1], a, b, carry);
  }
}

template <int kWords>
int64_t within_slice_of(const uint64_t* tables, int64_t any_words, const SliceQuery* queries,
                        int64_t n_queries, SliceHits* out) {
  const int64_t n_words = kWords > 0 ? kWords : any_words;
  // Bits 1 … 5 of a distance are summed by the tree, the higher ones a word at a time.
  constexpr int kTree = 5;
  const int n_high = distance_bits(n_words) - kTree - 1;
  constexpr int64_t kBlockBytes = 32 * kForms * static_cast<int64_t>(sizeof(Bits));
  const auto* blocks = reinterpret_cast<const uint8_t*>(tables);
  const Bits last = *reinterpret_cast<const Bits*>(blocks + n_words * kBlockBytes);
  int64_t n_out = 0;
  for (int64_t q = 0; q < n_queries; ++q) {
    const SliceQuery& query = queries[q];
    Bits sums[kMaxDistanceBits - 1], beyond{};
#pragma GCC unroll 10
    for (int i = 0; i < kTree + n_high; ++i) sums[i] = Bits{} + query.start[i + 1];
    for (int64_t w = 0; w < n_words; ++w) {
      Bits carry;
      add_majorities<kTree>(blocks + w * kBlockBytes, query.forms + 32 * w, sums, carry);
      for (int i = kTree; i < kTree + n_high; ++i) {
        const Bits next = sums[i] & carry;
        sums[i] ^= carry;
        carry = next;
      }
      beyond |= carry;
    }
    Bits carry = (last ^ query.parity) & query.start[0];
    for (int i = 0; i < kTree + n_high; ++i) carry &= sums[i];
    beyond |= carry;
    if (all_set(beyond)) [[likely]]
      continue;
    out[n_out].query = q;
    for (int64_t lane = 0; lane < kSliceLanes; ++lane) out[n_out].codes[lane] = ~beyond[lane];
    ++n_out;
  }
  return n_out;
}

int64_t within_slice(const uint64_t* tables, int64_t n_words, const SliceQuery* queries,
                     int64_t n_queries, SliceHits* out) {
  switch (n_words) {
    case 1: return within_slice_of<1>(tables, n_words, queries, n_queries, out);
    case 2: return within_slice_of<2>(tables, n_words, queries, n_queries, out);
    case 4: return within_slice_of<4>(tables, n_words, queries, n_queries, out);
    default: return within_slice_of<0>(tables, n_words, queries, n_queries, out);
  }
}

constexpr HammingKernels kHammingKernels = {within, slice, within_slice};

}  // namespace
}  // namespace memcore
