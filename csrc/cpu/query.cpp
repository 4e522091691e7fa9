#include "query.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "check.h"

namespace memcore {
namespace {

// Bounds are computed in double and must not shrink on their way to float32.
float round_up(double value) {
  const float nearest = static_cast<float>(value);
  // The next float32, of a number that is not negative.
  return static_cast<double>(nearest) < value
             ? std::bit_cast<float>(std::bit_cast<uint32_t>(nearest) + 1)
             : nearest;
}

// Copies one row of any strides.
void gather(const uint8_t* row, int64_t item, int64_t dim, int64_t column_stride, uint8_t* out) {
  for (int64_t i = 0; i < dim; ++i) std::memcpy(out + i * item, row + i * column_stride, item);
}

}  // namespace

Queries::Queries(const char* op, const uint8_t* values, DType dtype, int64_t n, int64_t dim,
                 int64_t row_stride, int64_t column_stride, Metric metric, int64_t first)
    : n_(n), dim_(dim), metric_(metric), rows_(n), norms_(n) {
  const int64_t item = item_bytes(dtype);
  const bool is_plain = dtype == DType::kFloat32 && (column_stride == item || dim <= 1) &&
                        row_stride % 4 == 0 && reinterpret_cast<uintptr_t>(values) % 4 == 0;
  if (!is_plain) widened_.resize(static_cast<size_t>(n) * dim);
  std::vector<uint8_t> packed(column_stride == item ? 0 : dim * item);
  for (int64_t q = 0; q < n; ++q) {
    const uint8_t* row = values + q * row_stride;
    if (is_plain) {
      rows_[q] = reinterpret_cast<const float*>(row);
      continue;
    }
    if (column_stride != item) {
      gather(row, item, dim, column_stride, packed.data());
      row = packed.data();
    }
    float* out = widened_.data() + q * dim;
    kernels().widen(row, dtype, dim, out);
    rows_[q] = out;
  }
  kernels().square_rows(reinterpret_cast<const void* const*>(rows_.data()), DType::kFloat32, n, dim,
                        norms_.data());
  for (int64_t q = 0; q < n; ++q) {
    MEMCORE_CHECK(
        norms_[q] <= 1e36f, kInput, op, ": queries row ", first + q,
        " is not finite or too large, should be finite with a squared norm of at most 1e36");
    norms_[q] = std::sqrt(norms_[q]);
  }
}

void Queries::reserve_codes() {
  codes_ = std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(n_ * code_bytes()));
  quantized_.resize(n_);
}

void Queries::quantize(int64_t q, bool is_alone) {
  Quantized& out = quantized_[q];
  out.is_alone = is_alone;
  float error;
  int32_t sum;
  out.is_bounded =
      kernels().quantize_query(rows_[q], dim_, norms_[q], is_alone, codes_.get() + q * code_bytes(),
                               &out.bound.slope, &error, &sum);
  if (!out.is_bounded) return;
  // Modulo 2^32, as the sums are.
  out.start = static_cast<int32_t>(-128 * static_cast<int64_t>(sum));
  set_bound(q, static_cast<double>(error), static_cast<double>(dim_) / 16);
}

void Queries::bound_product(int64_t q) {
  Quantized& out = quantized_[q];
  // Below that, squares may be lost to underflow; of a zero query none are.
  out.is_bounded = norms_[q] >= 0x1p-60f;
  if (out.is_bounded) set_bound(q, 0.0, static_cast<double>(dim_) / 16 + static_cast<double>(dim_));
}

// docs/score.md, "The certificate": `left` bounds what the codes leave out, and at most n_added
// roundings lie between a lane's first term and its sum.
void Queries::set_bound(int64_t q, double left, double n_added) {
  // kOutward covers the roundings of the bounds themselves.
  constexpr double kOutward = 1 + 0x1p-16;
  const double rounding = (n_added + 40) * 0x1p-24 * kOutward;
  const double norm = static_cast<double>(norms_[q]) * (1 + rounding);
  BoundQuery& bound = quantized_[q].bound;
  bound.metric = metric_;
  bound.error_weight = round_up((norm * (1 + rounding) + left) * kOutward);
  // A row's norm is its canonical one, which may lie below the true one by less than 2^-10 of it.
  bound.norm_weight = round_up((left + rounding * norm) * kOutward * (1 + 0x1p-10));
  bound.underflow = round_up((static_cast<double>(dim_) + 64) * 0x1p-149);
  bound.norm = norms_[q];
  bound.slack = round_up(2 * rounding * (1 + 0x1p-10));
}

ScanQuery Queries::aim(int64_t q, float threshold) const {
  const Quantized& from = quantized_[q];
  const BoundQuery& bound = from.bound;
  ScanQuery out;
  const uint8_t* codes = codes_.get() + q * code_bytes();
  out.codes = from.is_alone ? nullptr : reinterpret_cast<const int8_t*>(codes);
  out.wide_codes = from.is_alone ? reinterpret_cast<const int16_t*>(codes) : nullptr;
  out.start = from.start;
  out.slope = bound.slope;
  out.inverse_slope = 1.0f / bound.slope;
  out.error_weight = bound.error_weight;
  out.norm_weight = bound.norm_weight;
  out.square_weight = 0.0f;
  out.offset = bound.underflow;
  if (threshold == -std::numeric_limits<float>::infinity()) {
    out.offset = std::numeric_limits<float>::infinity();
    return out;
  }
  switch (metric_) {
    case Metric::kDot: out.offset -= threshold; break;
    case Metric::kCosine: out.norm_weight -= threshold * bound.norm; break;
    case Metric::kL2:
      // 2 (dot + bound) - |q|^2 - |x|^2 + slack (|q| + |x|)^2 >= threshold
      out.slope *= 2.0f;
      out.inverse_slope *= 0.5f;
      out.error_weight *= 2.0f;
      out.norm_weight = 2.0f * (bound.norm_weight + bound.slack * bound.norm);
      out.square_weight = bound.slack - 1.0f;
      out.offset =
          2.0f * bound.underflow + (bound.slack - 1.0f) * (bound.norm * bound.norm) - threshold;
      break;
  }
  return out;
}

}  // namespace memcore
