#include <algorithm>
#include <cstring>

#include "best.h"
#include "search.h"

namespace memcore {

void topk(const uint8_t* scores, int64_t n_queries, int64_t n, int64_t query_stride,
          int64_t item_stride, CountsView k, Interrupt& interrupt, int64_t width, float* best,
          int64_t* ids) {
  constexpr int64_t kPolled = 1 << 16;
  const int64_t rows_a_task = std::max<int64_t>(1, kPolled / std::max<int64_t>(n, 1));
  parallel_for((n_queries + rows_a_task - 1) / rows_a_task, [&](int64_t task) {
    Best row_best;
    for (int64_t q = task * rows_a_task; q < std::min(n_queries, (task + 1) * rows_a_task); ++q) {
      row_best.reset(k[q]);
      const uint8_t* row = scores + q * query_stride;
      for (int64_t begin = 0; begin < n && k[q] > 0; begin += kPolled) {
        for (int64_t i = begin; i < std::min(n, begin + kPolled); ++i) {
          float score;
          std::memcpy(&score, row + i * item_stride, sizeof(score));
          // -0 becomes +0; NaN fails the comparison.
          score += 0.0f;
          if (score >= row_best.threshold()) row_best.offer(score, i);
        }
        interrupt.poll();
      }
      row_best.write(best + q * width, ids + q * width, width);
    }
  });
}

}  // namespace memcore
