#pragma once

#include <cstdint>
#include <memory>

#include "kernels.h"
#include "row_source.h"
#include "search.h"

namespace memcore {

// Rows begin … begin + n - 1 of an array of keys. Ids are positions in the whole array. The shadow
// exists for a window of blocks at a time: it is made by the search, so that its memory does not
// grow with the array.
class ArrayRows : public RowSource {
 public:
  ArrayRows(const KeysView& keys, int64_t begin, int64_t n, const float* scale, const float* bias)
      : keys_(keys), begin_(begin), n_(n), scale_(scale), bias_(bias) {}

  int64_t n_rows() const override { return n_; }
  int64_t dim() const override { return keys_.dim; }
  DType dtype() const override { return keys_.dtype; }
  const uint8_t* block(int64_t b) const override;
  void rows(const int64_t* row, int64_t n, const void** out) const override;
  void ids(const int64_t* row, int64_t n, int64_t* out) const override;
  void norms(const int64_t* row, int64_t n, const void* const* rows, float* out) const override;
  void prefetch(const int64_t* row, int64_t n) const override;
  bool is_weighted() const override { return scale_ != nullptr || bias_ != nullptr; }
  void weights(const int64_t* row, int64_t n, float* scale, float* bias) const override;

  int64_t begin() const { return begin_; }
  int64_t n_blocks() const { return (n_ + 15) / 16; }

  // How many blocks a window may have.
  int64_t window_blocks() const;

  // Makes room for the shadow of n blocks; then shadow(i, b) may write block b to place i, from any
  // thread.
  void open_window(int64_t n);
  void shadow(int64_t place, int64_t b);

  // Window place i holds block first + i.
  void set_window(int64_t first) { window_first_ = first; }
  const uint8_t* window_block(int64_t place) const { return window_.get() + place * block_bytes_; }
  // Its scales, errors and norms.
  float* window_meta(int64_t place) {
    return reinterpret_cast<float*>(window_.get() + place * block_bytes_ +
                                    block_codes_bytes(keys_.dim));
  }

 private:
  const KeysView keys_;
  const int64_t begin_, n_;
  const float* scale_;
  const float* bias_;
  const int64_t block_bytes_ = block_stride();
  int64_t block_stride() const;
  int64_t window_first_ = 0;
  std::unique_ptr<uint8_t[]> window_;
};

}  // namespace memcore
