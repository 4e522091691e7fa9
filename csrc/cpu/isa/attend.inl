// The inner loops of attend: a matrix product over panels, exponentials, weighted sums of rows.

#include "kernels.h"

namespace memcore {
namespace {

// kRows x 16 sums stay in registers over all steps.
template <int kRows>
void multiply_rows(const float* a, int64_t a_stride, const float* panel, int64_t n_steps,
                   float* out, int64_t out_stride, bool adds) {
  constexpr int kLanes = 16 / kWordRegisters;
  FloatRegister sums[kRows][kWordRegisters];
  const FloatRegister one = broadcast_floats(1.0f);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int w = 0; w < kWordRegisters; ++w) {
      sums[r][w] = broadcast_floats(0.0f);
    }
  }
  for (int64_t i = 0; i < n_steps; ++i, panel += 16, ++a) {
    FloatRegister word[kWordRegisters];
#pragma GCC unroll 4
    for (int w = 0; w < kWordRegisters; ++w) word[w] = load_floats(panel + w * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const FloatRegister x = broadcast_floats(a[r * a_stride]);
#pragma GCC unroll 4
      for (int w = 0; w < kWordRegisters; ++w) multiply_add(sums[r][w], word[w], x);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int w = 0; w < kWordRegisters; ++w) {
      float* place = out + r * out_stride + w * kLanes;
      // Added as one term: a sum over many tiles is rounded once a tile, not once a step.
      if (adds) multiply_add(sums[r][w], load_floats(place), one);
      store_floats(place, sums[r][w]);
    }
  }
}

void multiply(const float* a, int64_t a_stride, const float* panel, int64_t n_rows, int64_t n_steps,
              float* out, int64_t out_stride, bool adds) {
  int64_t r = 0;
  for (; r + kProductRows <= n_rows; r += kProductRows) {
    multiply_rows<kProductRows>(a + r * a_stride, a_stride, panel, n_steps, out + r * out_stride,
                                out_stride, adds);
  }
  for (; r < n_rows; ++r) {
    multiply_rows<1>(a + r * a_stride, a_stride, panel, n_steps, out + r * out_stride, out_stride,
                     adds);
  }
}

float logits(float* values, int64_t n, float beta, const float* bias) {
  const F32 slope = broadcast(beta), none = broadcast(-__builtin_inff());
  F32 largest = none;
  for (int64_t i = 0; i < n; i += 16) {
    F32 value = mul(load(values + i), slope);
    if (bias != nullptr) value = add(value, load(bias + i));
    value = max_number(value, none);
    largest = max(largest, value);
    store(values + i, value);
  }
  return max_lane(largest);
}

// exp(x) for x <= 0 to 2^-23: x = n ln 2 + r, and Taylor's series of degree 7 for |r| <= ln 2 / 2.
F32 exponential(const F32& x) {
  const F32 shift = broadcast(0x1.8p23f);
  const F32 within = max(x, broadcast(-88.0f));
  const F32 shifted = add(mul(within, broadcast(0x1.715476p0f)), shift);
  const F32 n = sub(shifted, shift);
  // The first part of ln 2 has few bits, so that its product with n is exact.
  const F32 r =
      sub(sub(within, mul(n, broadcast(0x1.62e4p-1f))), mul(n, broadcast(0x1.7f7d1cp-20f)));
  constexpr float kFactorials[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  F32 sum = broadcast(1.0f / 5040);
#pragma GCC unroll 7
  for (int i = 0; i < 7; ++i) sum = add(mul(sum, r), broadcast(kFactorials[i]));
  return mul(sum, power_of_two(shifted));
}

float exponentials(float* values, int64_t n, float shift) {
  const F32 largest = broadcast(shift);
  F32 sum = broadcast(0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    const F32 value = exponential(sub(load(values + i), largest));
    sum = add(sum, value);
    store(values + i, value);
  }
  return fold(sum);
}

// Columns begin … begin + 16 kWords - 1 of the sum.
template <class Row, int kWords>
void weighted_columns(const void* const* rows, const float* weights, int64_t n_rows, int64_t begin,
                      float* out) {
  F32 sum[kWords];
#pragma GCC unroll 4
  for (int w = 0; w < kWords; ++w) sum[w] = broadcast(0.0f);
  for (int64_t j = 0; j < n_rows; ++j) {
    const auto* row = static_cast<const typename Row::Item*>(rows[j]) + begin;
    const F32 weight = broadcast(weights[j]);
#pragma GCC unroll 4
    for (int w = 0; w < kWords; ++w) sum[w] = add(sum[w], mul(weight, Row::load16(row + 16 * w)));
  }
#pragma GCC unroll 4
  for (int w = 0; w < kWords; ++w) store(out + begin + 16 * w, sum[w]);
}

void weighted_sum(const void* const* rows, DType dtype, const float* weights, int64_t n_rows,
                  int64_t dim, float* out) {
  with_row_type(dtype, [=](auto type) {
    using Row = decltype(type);
    int64_t i = 0;
    for (; i + 64 <= dim; i += 64) weighted_columns<Row, 4>(rows, weights, n_rows, i, out);
    for (; i + 16 <= dim; i += 16) weighted_columns<Row, 1>(rows, weights, n_rows, i, out);
    if (i == dim) return;
    F32 sum = broadcast(0.0f);
    for (int64_t j = 0; j < n_rows; ++j) {
      const auto* row = static_cast<const typename Row::Item*>(rows[j]) + i;
      sum = add(sum, mul(broadcast(weights[j]), load_tail<Row>(row, dim - i)));
    }
    float last[16];
    store(last, sum);
    for (int64_t c = i; c < dim; ++c) out[c] = last[c - i];
  });
}

constexpr AttendKernels kAttendKernels = {multiply, logits, exponentials, weighted_sum};

}  // namespace
}  // namespace memcore
