#pragma once

#include <cstdint>

#include "search.h"
#include "threads.h"

namespace memcore {

// Codes (n, n_words), contiguous.
struct CodesView {
  const uint64_t* data;
  int64_t n;
  int64_t n_words;
};

// The k nearest codes of each query by Hamming distance: scores = -bits, best first, equal scores
// by the smaller position, then padding. Codes farther than max_distance are not returned.
void hamming_search(const CodesView& queries, const CodesView& keys, CountsView k,
                    const MaskView& mask, int64_t max_distance, Interrupt& interrupt, int64_t width,
                    float* scores, int64_t* ids);

}  // namespace memcore
