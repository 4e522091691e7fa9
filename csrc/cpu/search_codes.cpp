#include <algorithm>
#include <vector>

#include "best.h"
#include "codebook.h"
#include "kernels.h"

namespace memcore {
namespace {

// Queries whose tables look at the same codes before they leave the cache.
constexpr int64_t kTaskQueries = 8;
constexpr int64_t kTaskRows = 4096;

// table[p][c] = the canonical score of the query's part and codeword c of part p.
void fill_table(const float* query, const CodebookView& book, bool is_l2,
                const std::vector<const void*>& words, float* table) {
  const auto sums = is_l2 ? kernels().l2_rows : kernels().dot_rows;
  for (int64_t p = 0; p < book.n_parts(); ++p) {
    float* of_part = table + p * book.n_codes;
    sums(query + p % book.n_subspaces * book.sub_dim, words.data() + p * book.n_codes,
         DType::kFloat32, book.n_codes, book.sub_dim, of_part);
    if (!is_l2) continue;
    for (int64_t c = 0; c < book.n_codes; ++c) of_part[c] = -of_part[c];
  }
}

// out[r] = the sum of a row's entries in the order of its parts; several rows at a time, so that no
// sum waits for another.
template <class Code>
void sum_rows(const float* table, const Code* codes, int64_t n_rows, int64_t n_parts,
              int64_t n_codes, float* out) {
  constexpr int64_t kRows = 8;
  int64_t r = 0;
  for (; r + kRows <= n_rows; r += kRows, codes += kRows * n_parts) {
    float sums[kRows] = {};
    const float* of_part = table;
    for (int64_t p = 0; p < n_parts; ++p, of_part += n_codes) {
#pragma GCC unroll 8
      for (int64_t i = 0; i < kRows; ++i) sums[i] += of_part[codes[i * n_parts + p]];
    }
    std::copy(sums, sums + kRows, out + r);
  }
  for (; r < n_rows; ++r, codes += n_parts) {
    float sum = 0.0f;
    for (int64_t p = 0; p < n_parts; ++p) sum += table[p * n_codes + codes[p]];
    out[r] = sum;
  }
}

void sum_rows(const float* table, const CodesView& codes, int64_t first, int64_t n_rows,
              int64_t n_parts, int64_t n_codes, float* out) {
  const auto run = [&](auto code) {
    using Code = decltype(code);
    sum_rows(table, static_cast<const Code*>(codes.data) + first * n_parts, n_rows, n_parts,
             n_codes, out);
  };
  if (codes.item_bytes == 1) return run(uint8_t{});
  if (codes.item_bytes == 2) return run(uint16_t{});
  run(uint32_t{});
}

}  // namespace

void search_codes(const Queries& queries, const CodesView& codes, const CodebookView& book,
                  CountsView k, const float* squares, Interrupt& interrupt, int64_t width,
                  float* scores, int64_t* ids) {
  const int64_t n_parts = book.n_parts(), table_size = n_parts * book.n_codes;
  if (queries.metric() != Metric::kL2) squares = nullptr;
  const bool is_l2 = queries.metric() == Metric::kL2 && squares == nullptr;
  std::vector<const void*> words(table_size);
  for (int64_t i = 0; i < table_size; ++i) words[i] = book.codewords + i * book.sub_dim;
  // With few queries the rows are split too; parts are merged query by query.
  const int64_t n_tasks = (queries.size() + kTaskQueries - 1) / kTaskQueries;
  const int64_t n_splits = std::clamp<int64_t>(codes.n_rows / (4 * kTaskRows), 1,
                                               n_tasks >= n_threads() ? 1 : n_threads());
  const int64_t split = (codes.n_rows + n_splits - 1) / n_splits;
  std::vector<Best> best(queries.size() * n_splits);
  parallel_for(n_tasks * n_splits, [&](int64_t task) {
    const int64_t part = task % n_splits, begin = task / n_splits * kTaskQueries;
    const int64_t end = std::min(queries.size(), begin + kTaskQueries);
    std::vector<float> tables((end - begin) * table_size), sums(kTaskRows);
    std::vector<float> query_squares(end - begin);
    for (int64_t q = begin; q < end; ++q) {
      best[q * n_splits + part].reset(k[q]);
      fill_table(queries.values(q), book, is_l2, words, tables.data() + (q - begin) * table_size);
      const void* row = queries.values(q);
      kernels().square_rows(&row, DType::kFloat32, 1, book.dim(), &query_squares[q - begin]);
    }
    const int64_t last = std::min(codes.n_rows, (part + 1) * split);
    for (int64_t first = part * split; first < last; first += kTaskRows) {
      const int64_t n = std::min(kTaskRows, last - first);
      for (int64_t q = begin; q < end; ++q) {
        if (k[q] == 0) continue;
        sum_rows(tables.data() + (q - begin) * table_size, codes, first, n, n_parts, book.n_codes,
                 sums.data());
        if (squares != nullptr) {
          for (int64_t r = 0; r < n; ++r) {
            sums[r] = (2.0f * sums[r] - squares[first + r]) - query_squares[q - begin];
          }
        }
        Best& found = best[q * n_splits + part];
        for (int64_t r = 0; r < n; ++r) {
          const float score = sums[r] + 0.0f;
          if (score >= found.threshold()) found.offer(score, first + r);
        }
      }
      interrupt.poll();
    }
  });
  for (int64_t q = 0; q < queries.size(); ++q) {
    Best& all = best[q * n_splits];
    for (int64_t part = 1; part < n_splits; ++part) {
      for (const Hit& hit : best[q * n_splits + part].hits()) all.offer(hit.score, hit.id);
    }
    all.write(scores + q * width, ids + q * width, width);
  }
}

}  // namespace memcore
