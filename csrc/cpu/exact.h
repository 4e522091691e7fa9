#pragma once

#include <cstdint>
#include <limits>

#include "best.h"
#include "query.h"
#include "row_source.h"

namespace memcore {

// What a final score must lie in to be returned.
struct ScoreRange {
  float min = -std::numeric_limits<float>::infinity();
  float max = std::numeric_limits<float>::infinity();
};

// Rows that are scored in one go.
inline constexpr int64_t kScoreRows = 64;

// The canonical scores of query q and n <= kScoreRows rows: docs/score.md. No scale, no bias; NaN
// stays.
void canonical_scores(const Queries& queries, int64_t q, const RowSource& source,
                      const int64_t* rows, int64_t n, float* scores);

// The final scores of any number of rows, offered to `best` where they lie in range. NaN is not
// offered.
void offer_rows(const Queries& queries, int64_t q, const RowSource& source, const int64_t* rows,
                int64_t n, ScoreRange range, Best& best);

// The same for rows begin … end - 1 for which bit r % 16 of allowed[r / 16 - begin / 16] is set;
// begin is a multiple of 16, and no `allowed` allows all. This is the float32 scan.
void offer_range(const Queries& queries, int64_t q, const RowSource& source, int64_t begin,
                 int64_t end, const uint16_t* allowed, ScoreRange range, Best& best);

// Asks for the first lines of a row; the processor's own prefetcher finds the others.
inline void prefetch_row(const void* row, int64_t n_bytes) {
  for (int64_t byte = 0; byte < n_bytes && byte < 512; byte += 64) {
    __builtin_prefetch(static_cast<const char*>(row) + byte);
  }
}

}  // namespace memcore
