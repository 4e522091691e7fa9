#include "gather.h"

#include <algorithm>
#include <vector>

namespace memcore {
namespace {

constexpr int64_t kTaskQueries = 16;
constexpr int64_t kTaskPairs = 4096;

void weighted_sum(const void* const* rows, DType dtype, const float* weights, int64_t n_rows,
                  int64_t dim, float* out) {
  kernels().attend.weighted_sum(rows, dtype, weights, n_rows, dim, out);
}
void weighted_sum(const void* const* rows, DType, const double* weights, int64_t n_rows,
                  int64_t dim, double* out) {
  std::fill(out, out + dim, 0.0);
  for (int64_t j = 0; j < n_rows; ++j) {
    const auto* row = static_cast<const uint8_t*>(rows[j]);
    for (int64_t i = 0; i < dim; ++i) {
      double x;
      std::memcpy(&x, row + i * sizeof(double), sizeof(double));
      out[i] += weights[j] * x;
    }
  }
}

void dot_rows(const float* query, const void* const* rows, DType dtype, int64_t n_rows, int64_t dim,
              float* sums) {
  kernels().dot_rows(query, rows, dtype, n_rows, dim, sums);
}
void dot_rows(const double* query, const void* const* rows, DType, int64_t n_rows, int64_t dim,
              double* sums) {
  for (int64_t r = 0; r < n_rows; ++r) {
    const auto* row = static_cast<const uint8_t*>(rows[r]);
    double sum = 0;
    for (int64_t i = 0; i < dim; ++i) {
      double x;
      std::memcpy(&x, row + i * sizeof(double), sizeof(double));
      sum += query[i] * x;
    }
    sums[r] = sum;
  }
}

// Asks for the rows that the next query names while this one's are at work.
void prefetch(const BatchRows& rows, int64_t batch, const int64_t* ids, int64_t n) {
  const int64_t n_bytes = std::min<int64_t>(rows.dim * item_bytes(rows.dtype), 512);
  for (int64_t j = 0; j < n; ++j) {
    if (ids[j] < 0) continue;
    const uint8_t* row = rows.row(batch, ids[j]);
    for (int64_t i = 0; i < n_bytes; i += 64) __builtin_prefetch(row + i);
  }
}

// Calls look(batch, query, n, places, pointers) for each query: the n rows that it names, and where
// in its list they stand.
template <class Look>
void each_query(const NamedRows& named, const BatchRows& rows, Interrupt& interrupt,
                const Look& look) {
  const int64_t n_all = named.n_batches * named.n_queries;
  parallel_for((n_all + kTaskQueries - 1) / kTaskQueries, [&](int64_t task) {
    std::vector<const void*> pointers(named.n_ids);
    std::vector<int64_t> places(named.n_ids);
    const int64_t end = std::min(n_all, (task + 1) * kTaskQueries);
    for (int64_t i = task * kTaskQueries; i < end; ++i) {
      const int64_t batch = i / named.n_queries;
      const int64_t* ids = named.ids + i * named.n_ids;
      if (i + 1 < end) {
        prefetch(rows, (i + 1) / named.n_queries, ids + named.n_ids, named.n_ids);
      }
      int64_t n = 0;
      for (int64_t j = 0; j < named.n_ids; ++j) {
        if (ids[j] < 0) continue;
        pointers[n] = rows.row(batch, ids[j]);
        places[n++] = j;
      }
      look(batch, i % named.n_queries, n, places.data(), pointers.data());
    }
    interrupt.poll();
  });
}

}  // namespace

template <class Real>
void dots(const NamedRows& named, const BatchRows& queries, const BatchRows& keys,
          Interrupt& interrupt, Real* scores) {
  each_query(
      named, keys, interrupt,
      [&](int64_t batch, int64_t q, int64_t n, const int64_t* places, const void* const* rows) {
        std::vector<Real> query(keys.dim), sums(n);
        read_row(queries, batch, q, query.data());
        dot_rows(query.data(), rows, keys.dtype, n, keys.dim, sums.data());
        Real* out = scores + (batch * named.n_queries + q) * named.n_ids;
        std::fill(out, out + named.n_ids, Real{0});
        for (int64_t j = 0; j < n; ++j) out[places[j]] = sums[j];
      });
}

template <class Real>
void aggregate(const NamedRows& named, const Real* weights, const BatchRows& values,
               Interrupt& interrupt, Real* out) {
  each_query(
      named, values, interrupt,
      [&](int64_t batch, int64_t q, int64_t n, const int64_t* places, const void* const* rows) {
        const int64_t at = batch * named.n_queries + q;
        std::vector<Real> given(n);
        for (int64_t j = 0; j < n; ++j) given[j] = weights[at * named.n_ids + places[j]];
        weighted_sum(rows, values.dtype, given.data(), n, values.dim, out + at * values.dim);
      });
}

// The reverse index: pairs sorted by the row that they name, so that each row has one owner, who
// adds in the order of the pairs, without atomics.
template <class Real>
void scatter(const NamedRows& named, const Real* weights, const BatchRows& rows, int64_t n_sums,
             Interrupt& interrupt, Real* sums) {
  const int64_t n_pairs = named.n_queries * named.n_ids;
  std::vector<int64_t> begins(n_sums + 1), order;
  for (int64_t batch = 0; batch < named.n_batches; ++batch) {
    const int64_t* ids = named.ids + batch * n_pairs;
    std::fill(begins.begin(), begins.end(), 0);
    for (int64_t i = 0; i < n_pairs; ++i) {
      if (ids[i] >= 0) ++begins[ids[i] + 1];
    }
    std::vector<int64_t> cuts = {0};
    for (int64_t id = 0; id < n_sums; ++id) {
      begins[id + 1] += begins[id];
      if (begins[id + 1] - begins[cuts.back()] >= kTaskPairs) cuts.push_back(id + 1);
    }
    if (cuts.back() != n_sums) cuts.push_back(n_sums);
    order.resize(begins[n_sums]);
    std::vector<int64_t> next(begins.begin(), begins.end() - 1);
    for (int64_t i = 0; i < n_pairs; ++i) {
      if (ids[i] >= 0) order[next[ids[i]]++] = i;
    }
    parallel_for(static_cast<int64_t>(cuts.size()) - 1, [&](int64_t task) {
      std::vector<const void*> pointers;
      std::vector<Real> given;
      for (int64_t id = cuts[task]; id < cuts[task + 1]; ++id) {
        const int64_t n = begins[id + 1] - begins[id];
        if (n == 0) continue;
        pointers.resize(n);
        given.resize(n);
        for (int64_t j = 0; j < n; ++j) {
          const int64_t pair = order[begins[id] + j];
          pointers[j] = rows.row(batch, pair / named.n_ids);
          given[j] = weights[batch * n_pairs + pair];
        }
        weighted_sum(pointers.data(), rows.dtype, given.data(), n, rows.dim,
                     sums + (batch * n_sums + id) * rows.dim);
      }
      interrupt.poll();
    });
  }
}

#define MEMCORE_NAMED_ROWS(Real)                                                               \
  template void dots(const NamedRows&, const BatchRows&, const BatchRows&, Interrupt&, Real*); \
  template void aggregate(const NamedRows&, const Real*, const BatchRows&, Interrupt&, Real*); \
  template void scatter(const NamedRows&, const Real*, const BatchRows&, int64_t, Interrupt&,  \
                        Real*);
MEMCORE_NAMED_ROWS(float)
MEMCORE_NAMED_ROWS(double)
#undef MEMCORE_NAMED_ROWS

}  // namespace memcore
