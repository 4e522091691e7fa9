#include "attend.h"
#include "attend_tiles.h"

namespace memcore {
namespace {

// Rows that one task owns: more share the panels of the other side, fewer fit the cache.
constexpr int64_t kTaskRows = 192;

// weights[i] = exp(logit - lse), and slopes[i], the gradient of the logits, for one row of a tile:
// slopes hold the dot products of values and the gradient of out.
template <class Real>
void to_slopes(const Real* weights, Real* slopes, int64_t n, const Real* shifts, Real shift) {
  for (int64_t i = 0; i < n; ++i) {
    const Real left = slopes[i] - (shifts == nullptr ? shift : shifts[i]);
    // A key that does not count has no gradient even if its value is not finite.
    slopes[i] = weights[i] == Real{0} ? Real{0} : weights[i] * left;
  }
}

// The gradients of queries first … first + n - 1, over all keys.
template <class Real>
void query_tile(const AttendTask& task, const AttendGradients<Real>& gradients, int64_t batch,
                int64_t first, int64_t n, Interrupt& interrupt, double* beta) {
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  const int64_t n_keys = task.keys.n_rows, dim = task.keys.dim;
  const bool has_values = task.values.data != nullptr;
  LeftRows<Real> queries, out;
  queries.read(task.queries, batch, first, n);
  if (has_values) out.read(gradients.out, batch, first, n);
  Panels<Real> columns, rows, values;
  std::vector<Real> tile, dots, slopes, bias, sums(n * round16(dim));
  const Real* lse = gradients.lse + batch * task.queries.n_rows + first;
  const Real* shift = gradients.shift + batch * task.queries.n_rows + first;
  for (int64_t at = 0; at < n_keys; at += kTileColumns) {
    const int64_t n_here = std::min(kTileColumns, n_keys - at);
    columns.read_transposed(task.keys, batch, at, n_here);
    const int64_t width = columns.n_columns();
    tile.resize(n * width);
    slopes.assign(n * width, Real{0});
    columns.multiply(queries.data(), dim, n, tile.data(), false);
    if (beta != nullptr) dots = tile;
    if (has_values) {
      values.read_transposed(task.values, batch, at, n_here);
      values.multiply(out.data(), out.dim(), n, slopes.data(), false);
    }
    const Real* key_bias = read_bias(task, batch, at, n_here, bias);
    for (int64_t r = 0; r < n; ++r) {
      Real* row = tile.data() + r * width;
      leave_out(task, batch, first + r, at, n_here, row, 1);
      std::fill(row + n_here, row + width, std::numeric_limits<Real>::quiet_NaN());
      logits(row, width, task.beta[batch], key_bias);
      exponentials(row, width, lse[r] == -kInfinity ? kInfinity : lse[r]);
      to_slopes<Real>(row, slopes.data() + r * width, width, nullptr, shift[r]);
      if (beta != nullptr) {
        for (int64_t i = r * width; i < r * width + n_here; ++i) {
          if (slopes[i] != Real{0}) *beta += static_cast<double>(slopes[i]) * dots[i];
        }
      }
    }
    if (gradients.queries != nullptr) {
      rows.read(task.keys, batch, at, n_here);
      rows.add_weighted(slopes.data(), width, n, sums.data());
    }
    interrupt.poll();
  }
  if (gradients.queries == nullptr) return;
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < dim; ++c) {
      gradients.queries[(batch * task.queries.n_rows + first + r) * dim + c] =
          static_cast<Real>(task.beta[batch] * sums[r * round16(dim) + c]);
    }
  }
}

// The gradients of keys first … first + n - 1 and of their values and bias, over all queries.
template <class Real>
void key_tile(const AttendTask& task, const AttendGradients<Real>& gradients, int64_t batch,
              int64_t first, int64_t n, Interrupt& interrupt) {
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  const int64_t n_queries = task.queries.n_rows, dim = task.keys.dim;
  const bool has_values = task.values.data != nullptr;
  const int64_t value_dim = has_values ? task.values.dim : 0;
  LeftRows<Real> keys, values;
  keys.read(task.keys, batch, first, n);
  if (has_values) values.read(task.values, batch, first, n);
  Panels<Real> columns, rows, out_columns, out_rows;
  std::vector<Real> tile, slopes, bias, negative_lse, shifts;
  std::vector<Real> key_sums(n * round16(dim)), value_sums(n * round16(value_dim)), bias_sums(n);
  const Real* key_bias = read_bias(task, batch, first, n, bias);
  const Real* lse = gradients.lse + batch * n_queries;
  const Real* shift = gradients.shift + batch * n_queries;
  for (int64_t at = 0; at < n_queries; at += kTileColumns) {
    const int64_t n_here = std::min(kTileColumns, n_queries - at);
    columns.read_transposed(task.queries, batch, at, n_here);
    const int64_t width = columns.n_columns();
    tile.resize(n * width);
    slopes.assign(n * width, Real{0});
    columns.multiply(keys.data(), dim, n, tile.data(), false);
    if (has_values) {
      out_columns.read_transposed(gradients.out, batch, at, n_here);
      out_columns.multiply(values.data(), value_dim, n, slopes.data(), false);
    }
    // A query without keys has lse -inf: none of its weights may be exp(inf).
    negative_lse.assign(width, -kInfinity);
    shifts.assign(width, Real{0});
    for (int64_t i = 0; i < n_here; ++i) {
      if (lse[at + i] != -kInfinity) negative_lse[i] = -lse[at + i];
      shifts[i] = shift[at + i];
      leave_out(task, batch, at + i, first, n, tile.data() + i, width);
    }
    for (int64_t r = 0; r < n; ++r) {
      Real* row = tile.data() + r * width;
      std::fill(row + n_here, row + width, std::numeric_limits<Real>::quiet_NaN());
      logits(row, width, task.beta[batch], negative_lse.data());
      const Real own = key_bias == nullptr ? Real{0} : key_bias[r];
      // A key of bias -inf counts for nobody.
      exponentials(row, width, own == own ? -own : kInfinity);
      to_slopes<Real>(row, slopes.data() + r * width, width, shifts.data(), Real{0});
      for (int64_t i = r * width; i < r * width + n_here; ++i) bias_sums[r] += slopes[i];
    }
    if (gradients.keys != nullptr) {
      rows.read(task.queries, batch, at, n_here);
      rows.add_weighted(slopes.data(), width, n, key_sums.data());
    }
    if (has_values && gradients.values != nullptr) {
      out_rows.read(gradients.out, batch, at, n_here);
      out_rows.add_weighted(tile.data(), width, n, value_sums.data());
    }
    interrupt.poll();
  }
  for (int64_t r = 0; r < n; ++r) {
    const int64_t key = batch * task.keys.n_rows + first + r;
    if (gradients.bias != nullptr) gradients.bias[key] = bias_sums[r];
    if (gradients.keys != nullptr) {
      for (int64_t c = 0; c < dim; ++c) {
        gradients.keys[key * dim + c] =
            static_cast<Real>(task.beta[batch] * key_sums[r * round16(dim) + c]);
      }
    }
    if (gradients.values != nullptr && has_values) {
      std::copy_n(value_sums.data() + r * round16(value_dim), value_dim,
                  gradients.values + key * value_dim);
    }
  }
}

}  // namespace

// Every gradient is summed by the one task that owns its row, in the order of the tiles: the same
// bits for any number of threads, at the price of two passes over the tiles.
template <class Real>
void attend_backward(const AttendTask& task, const AttendGradients<Real>& gradients,
                     Interrupt& interrupt) {
  const int64_t n_queries = task.queries.n_rows, n_keys = task.keys.n_rows;
  if (gradients.queries != nullptr || gradients.beta != nullptr) {
    const int64_t n_tiles = (n_queries + kTaskRows - 1) / kTaskRows;
    std::vector<double> beta(task.n_batches * n_tiles);
    parallel_for(task.n_batches * n_tiles, [&](int64_t i) {
      const int64_t first = i % n_tiles * kTaskRows;
      query_tile(task, gradients, i / n_tiles, first, std::min(kTaskRows, n_queries - first),
                 interrupt, gradients.beta == nullptr ? nullptr : &beta[i]);
    });
    if (gradients.beta != nullptr) {
      for (int64_t batch = 0; batch < task.n_batches; ++batch) {
        gradients.beta[batch] = 0;
        for (int64_t t = 0; t < n_tiles; ++t) gradients.beta[batch] += beta[batch * n_tiles + t];
      }
    }
  }
  if (gradients.keys != nullptr || gradients.values != nullptr || gradients.bias != nullptr) {
    const int64_t n_tiles = (n_keys + kTaskRows - 1) / kTaskRows;
    parallel_for(task.n_batches * n_tiles, [&](int64_t i) {
      const int64_t first = i % n_tiles * kTaskRows;
      key_tile(task, gradients, i / n_tiles, first, std::min(kTaskRows, n_keys - first), interrupt);
    });
  }
}

template void attend_backward(const AttendTask&, const AttendGradients<float>&, Interrupt&);
template void attend_backward(const AttendTask&, const AttendGradients<double>&, Interrupt&);

}  // namespace memcore
