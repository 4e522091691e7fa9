#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "attend.h"
#include "kernels.h"

namespace memcore {

// Rows of the left side of a product, and keys or queries of the right side, that lie in the cache
// together.
inline constexpr int64_t kTileRows = 48;
inline constexpr int64_t kTileColumns = 128;

constexpr int64_t round16(int64_t n) { return (n + 15) / 16 * 16; }

// The inner loops for float, and the same in plain C++ for double.
inline void multiply(const float* a, int64_t a_stride, const float* panel, int64_t n_rows,
                     int64_t n_steps, float* out, int64_t out_stride, bool adds) {
  kernels().attend.multiply(a, a_stride, panel, n_rows, n_steps, out, out_stride, adds);
}
inline void multiply(const double* a, int64_t a_stride, const double* panel, int64_t n_rows,
                     int64_t n_steps, double* out, int64_t out_stride, bool adds) {
  for (int64_t r = 0; r < n_rows; ++r) {
    double sums[16] = {};
    if (adds) std::copy_n(out + r * out_stride, 16, sums);
    for (int64_t i = 0; i < n_steps; ++i) {
      const double x = a[r * a_stride + i];
      for (int c = 0; c < 16; ++c) sums[c] += x * panel[i * 16 + c];
    }
    std::copy_n(sums, 16, out + r * out_stride);
  }
}
inline float logits(float* values, int64_t n, double beta, const float* bias) {
  return kernels().attend.logits(values, n, static_cast<float>(beta), bias);
}
inline double logits(double* values, int64_t n, double beta, const double* bias) {
  double largest = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < n; ++i) {
    const double value = beta * values[i] + (bias == nullptr ? 0.0 : bias[i]);
    values[i] = std::isnan(value) ? -std::numeric_limits<double>::infinity() : value;
    largest = std::max(largest, values[i]);
  }
  return largest;
}
inline float exponentials(float* values, int64_t n, float shift) {
  return kernels().attend.exponentials(values, n, shift);
}
inline double exponentials(double* values, int64_t n, double shift) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += values[i] = std::exp(values[i] - shift);
  return sum;
}

// Some rows of a batch, one after the other, as the left side of a product.
template <class Real>
class LeftRows {
 public:
  void read(const BatchRows& rows, int64_t batch, int64_t first, int64_t n) {
    dim_ = rows.dim;
    rows_.resize(n * dim_);
    for (int64_t i = 0; i < n; ++i) read_row(rows, batch, first + i, rows_.data() + i * dim_);
  }
  const Real* data() const { return rows_.data(); }
  int64_t dim() const { return dim_; }

 private:
  int64_t dim_ = 0;
  std::vector<Real> rows_;
};

// Some rows of a batch as the right side of a product, in panels of 16 columns. Missing ones are 0.
template <class Real>
class Panels {
 public:
  // Rows become columns: the product with LeftRows is all their dot products.
  void read_transposed(const BatchRows& rows, int64_t batch, int64_t first, int64_t n) {
    resize(rows.dim, round16(n));
    scratch_.resize(16 * n_steps_);
    for (int64_t c = 0; c < n_columns_; c += 16) {
      for (int64_t i = 0; i < 16; ++i) {
        Real* row = scratch_.data() + i * n_steps_;
        if (c + i < n) {
          read_row(rows, batch, first + c + i, row);
        } else {
          std::fill(row, row + n_steps_, Real{0});
        }
      }
      Real* to = panels_.data() + c * n_steps_;
      for (int64_t step = 0; step < n_steps_; ++step, to += 16) {
        for (int64_t i = 0; i < 16; ++i) to[i] = scratch_[i * n_steps_ + step];
      }
    }
  }

  // Rows stay rows: the product with weights (…, n) is their weighted sums.
  void read(const BatchRows& rows, int64_t batch, int64_t first, int64_t n) {
    resize(n, round16(rows.dim));
    scratch_.assign(n_columns_, Real{0});
    // Lane by lane, so that no sum waits for another; 0 * x is 0 where x is finite.
    Real zeros[16] = {};
    for (int64_t i = 0; i < n; ++i) {
      read_row(rows, batch, first + i, scratch_.data());
      for (int64_t c = 0; c < n_columns_; c += 16) {
        Real* to = panels_.data() + c * n_steps_ + i * 16;
        for (int j = 0; j < 16; ++j) {
          to[j] = scratch_[c + j];
          zeros[j] += Real{0} * scratch_[c + j];
        }
      }
    }
    is_finite_ = std::all_of(zeros, zeros + 16, [](Real x) { return x == Real{0}; });
  }

  int64_t n_columns() const { return n_columns_; }

  // out (n_rows, n_columns) (+)= a (n_rows, n_steps) * this.
  void multiply(const Real* a, int64_t a_stride, int64_t n_rows, Real* out, bool adds) const {
    for (int64_t c = 0; c < n_columns_; c += 16) {
      memcore::multiply(a, a_stride, panels_.data() + c * n_steps_, n_rows, n_steps_, out + c,
                        n_columns_, adds);
    }
  }

  // The same, adding, for weights: a row of weight 0 adds nothing even if it is not finite.
  void add_weighted(const Real* a, int64_t a_stride, int64_t n_rows, Real* out) const {
    if (is_finite_) return multiply(a, a_stride, n_rows, out, true);
    for (int64_t r = 0; r < n_rows; ++r) {
      for (int64_t i = 0; i < n_steps_; ++i) {
        const Real weight = a[r * a_stride + i];
        if (weight == Real{0}) continue;
        for (int64_t c = 0; c < n_columns_; ++c) {
          out[r * n_columns_ + c] += weight * panels_[c / 16 * 16 * n_steps_ + i * 16 + c % 16];
        }
      }
    }
  }

 private:
  void resize(int64_t n_steps, int64_t n_columns) {
    n_steps_ = n_steps;
    n_columns_ = n_columns;
    panels_.resize(n_steps * n_columns);
  }

  int64_t n_steps_ = 0, n_columns_ = 0;
  bool is_finite_ = true;
  std::vector<Real> panels_, scratch_;
};

// bias of keys first … first + n - 1, then zeros up to a multiple of 16; or nullptr without a bias.
template <class Real>
const Real* read_bias(const AttendTask& task, int64_t batch, int64_t first, int64_t n,
                      std::vector<Real>& scratch) {
  if (task.bias.data == nullptr) return nullptr;
  scratch.assign(round16(n), Real{0});
  const uint8_t* from = task.bias.at(batch, 0) + first * task.bias.item_stride;
  for (int64_t i = 0; i < n; ++i) {
    std::memcpy(&scratch[i], from + i * task.bias.item_stride, sizeof(Real));
  }
  return scratch.data();
}

// Turns the dot products of query q with keys first … into NaN where a key does not count.
template <class Real>
void leave_out(const AttendTask& task, int64_t batch, int64_t q, int64_t first, int64_t n,
               Real* dots, int64_t stride) {
  constexpr Real kNone = std::numeric_limits<Real>::quiet_NaN();
  if (task.mask.data != nullptr) {
    const uint8_t* allowed = task.mask.at(batch, q) + first * task.mask.item_stride;
    for (int64_t i = 0; i < n; ++i) {
      if (allowed[i * task.mask.item_stride] == 0) dots[i * stride] = kNone;
    }
  }
  if (task.exclude != nullptr) {
    const int64_t at = task.exclude[batch * task.queries.n_rows + q] - first;
    if (at >= 0 && at < n) dots[at * stride] = kNone;
  }
}

}  // namespace memcore
