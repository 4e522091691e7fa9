#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"

namespace memcore {

// A batch of queries, checked, widened and, for the first pass, quantised.
class Queries {
 public:
  // values (n, dim) in `dtype` with byte strides. Throws kInput at the first query that is not
  // finite or whose canonical dot with itself passes 1e36; its number is counted from `first`.
  Queries(const char* op, const uint8_t* values, DType dtype, int64_t n, int64_t dim,
          int64_t row_stride, int64_t column_stride, Metric metric, int64_t first = 0);

  int64_t size() const { return n_; }
  int64_t dim() const { return dim_; }
  Metric metric() const { return metric_; }
  const float* values(int64_t q) const { return rows_[q]; }
  float norm(int64_t q) const { return norms_[q]; }

  // Makes room for quantize. Call once before it.
  void reserve_codes();

  // Prepares query q for the first pass; if it is alone, in 16 bits, which are read no slower than
  // the rows come. Safe to call for different queries at the same time.
  void quantize(int64_t q, bool is_alone);

  // Instead of quantize, where estimates are float32 products fused in any order.
  void bound_product(int64_t q);

  // Whether the first pass can take this query: it was quantised, and is not so small that bounds
  // could underflow.
  bool has_bounds(int64_t q) const { return !quantized_.empty() && quantized_[q].is_bounded; }
  const BoundQuery& bound(int64_t q) const { return quantized_[q].bound; }

  // The query aimed at rows whose score may reach `threshold`.
  ScanQuery aim(int64_t q, float threshold) const;

 private:
  void set_bound(int64_t q, double left, double n_added);

  struct Quantized {
    BoundQuery bound;
    int32_t start;
    bool is_bounded, is_alone;
  };

  int64_t n_, dim_;
  Metric metric_;
  std::vector<float> widened_;
  std::vector<const float*> rows_;
  std::vector<float> norms_;
  // Room for 16 bits a component; the codes of a query begin at a multiple of code_bytes().
  int64_t code_bytes() const { return (dim_ + 15) / 16 * 32; }
  std::unique_ptr<uint8_t[]> codes_;
  std::vector<Quantized> quantized_;
};

}  // namespace memcore
