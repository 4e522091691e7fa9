#include "exact.h"

#include <algorithm>

#include "kernels.h"

namespace memcore {

void canonical_scores(const Queries& queries, int64_t q, const RowSource& source,
                      const int64_t* rows, int64_t n, float* scores) {
  const void* pointers[kScoreRows];
  source.rows(rows, n, pointers);
  const float* query = queries.values(q);
  const Kernels& loops = kernels();
  switch (queries.metric()) {
    case Metric::kDot:
      return loops.dot_rows(query, pointers, source.dtype(), n, source.dim(), scores);
    case Metric::kL2:
      loops.l2_rows(query, pointers, source.dtype(), n, source.dim(), scores);
      for (int64_t i = 0; i < n; ++i) scores[i] = -scores[i];
      return;
    case Metric::kCosine: {
      float norms[kScoreRows];
      source.norms(rows, n, pointers, norms);
      loops.dot_rows(query, pointers, source.dtype(), n, source.dim(), scores);
      for (int64_t i = 0; i < n; ++i) {
        const float product = queries.norm(q) * norms[i];
        scores[i] = product == 0.0f ? 0.0f : scores[i] / product;
      }
      return;
    }
  }
}

void offer_rows(const Queries& queries, int64_t q, const RowSource& source, const int64_t* rows,
                int64_t n, ScoreRange range, Best& best) {
  float scores[kScoreRows], scale[kScoreRows], bias[kScoreRows];
  int64_t ids[kScoreRows];
  for (int64_t begin = 0; begin < n; begin += kScoreRows) {
    const int64_t count = std::min(kScoreRows, n - begin);
    canonical_scores(queries, q, source, rows + begin, count, scores);
    if (source.is_weighted()) {
      source.weights(rows + begin, count, scale, bias);
      for (int64_t i = 0; i < count; ++i) scores[i] = scale[i] * scores[i] + bias[i];
    }
    source.ids(rows + begin, count, ids);
    for (int64_t i = 0; i < count; ++i) {
      // -0 becomes +0. NaN fails both comparisons.
      const float score = scores[i] + 0.0f;
      if (score >= range.min && score <= range.max && score >= best.threshold())
        best.offer(score, ids[i]);
    }
  }
}

void offer_range(const Queries& queries, int64_t q, const RowSource& source, int64_t begin,
                 int64_t end, const uint16_t* allowed, ScoreRange range, Best& best) {
  int64_t rows[kScoreRows];
  for (int64_t r = begin; r < end;) {
    int64_t n = 0;
    for (; r < end && n + 16 <= kScoreRows; r += 16) {
      const int64_t n_lanes = std::min<int64_t>(16, end - r);
      const uint32_t mask = allowed == nullptr ? 0xffff : allowed[(r - begin) / 16];
      for (int64_t lane = 0; lane < n_lanes; ++lane) {
        rows[n] = r + lane;
        n += mask >> lane & 1;
      }
    }
    offer_rows(queries, q, source, rows, n, range, best);
  }
}

}  // namespace memcore
