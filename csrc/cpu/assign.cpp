#include "assign.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "array_rows.h"
#include "kernels.h"

namespace memcore {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows that look at a block while it is near: whole tiles of every kernel. And the blocks whose
// estimates are kept at a time: in the first-level cache.
constexpr int64_t kTileRows = 60;
constexpr int64_t kTileBlocks = 8;
// Tiles that are prepared at a time, at least: they are still near when they are read again.
constexpr int64_t kBatchTiles = 8;

// For fewer rows or codewords than these, the preparation costs more than it saves.
constexpr int64_t kFewRows = 16;
constexpr int64_t kFewCodes = 4;
// With at most so many codewords a float32 product is done before rows are quantised and the
// candidates of their coarser bounds are scored.
constexpr int64_t kFloatCodes = 96;

float round_down(double value) {
  const float nearest = static_cast<float>(value);
  return static_cast<double>(nearest) > value ? std::nextafterf(nearest, -kInfinity) : nearest;
}

// The codewords as the first pass sees them: int8 blocks, or panels [dim][16] of float32.
class Codewords {
 public:
  explicit Codewords(const KeysView& keys)
      : source_(keys, 0, keys.n_rows, nullptr, nullptr),
        n_blocks_(source_.n_blocks()),
        dim_(keys.dim),
        is_float_(keys.n_rows <= kFloatCodes),
        norms_(n_blocks_ * kBlockRows, 0.0f),
        errors_(n_blocks_ * kBlockRows, 0.0f),
        minus_squares_(n_blocks_ * kBlockRows, -kInfinity) {
    if (is_float_) {
      make_panels();
    } else {
      make_blocks();
    }
    for (int64_t i = 0; i < n_codes(); ++i) {
      worst_norm_ = std::max(worst_norm_, norms_[i]);
      worst_error_ = std::max(worst_error_, errors_[i]);
    }
  }

  const ArrayRows& source() const { return source_; }
  int64_t n_codes() const { return source_.n_rows(); }
  int64_t n_blocks() const { return n_blocks_; }
  bool is_float() const { return is_float_; }
  // Whether the certificate reaches all of them.
  bool is_bounded() const { return worst_error_ < kInfinity; }

  // How far the estimate of a codeword may lie from its score: docs/score.md, "The test of a row".
  double bound(const BoundQuery& row, int64_t code) const {
    return bound(row, norms_[code], errors_[code]);
  }
  double worst_bound(const BoundQuery& row) const { return bound(row, worst_norm_, worst_error_); }

  // Estimates of codewords 16 first …, for rows begin … begin + n - 1: [n][16 n_blocks]. tops: the
  // best of each row.
  void estimate(const Queries& rows, int64_t begin, int64_t n, int64_t first, int64_t n_blocks,
                float* estimates, float* tops) const {
    const int64_t stride = n_blocks * kBlockRows;
    if (is_float_) {
      const float* values = rows.values(begin);
      const int64_t step = n > 1 ? rows.values(begin + 1) - values : 0;
      const AttendKernels& products = kernels().attend;
      for (int64_t b = 0; b < n_blocks; ++b) {
        products.multiply(values, step, panels_.data() + (first + b) * dim_ * kBlockRows, n, dim_,
                          estimates + b * kBlockRows, stride, false);
      }
      const float* squares = minus_squares_.data() + first * kBlockRows;
      for (int64_t i = 0; i < n; ++i) {
        tops[i] = products.logits(estimates + i * stride, stride, 2.0f, squares);
      }
      return;
    }
    ScanQuery aimed[kTileRows];
    for (int64_t i = 0; i < n; ++i) aimed[i] = rows.aim(begin + i, 0.0f);
    kernels().estimate(source_.window_block(first), block_stride_, n_blocks, dim_, aimed, n,
                       estimates, tops);
  }

 private:
  static double bound(const BoundQuery& row, float norm, float error) {
    const double both = static_cast<double>(norm) + row.norm;
    return 2 * (static_cast<double>(row.error_weight) * error +
                static_cast<double>(row.norm_weight) * norm + row.underflow) +
           row.slack * (both * both);
  }

  void make_blocks() {
    source_.open_window(n_blocks_);
    constexpr int64_t kTask = 16;
    parallel_for((n_blocks_ + kTask - 1) / kTask, [&](int64_t task) {
      for (int64_t b = task * kTask; b < std::min(n_blocks_, (task + 1) * kTask); ++b)
        source_.shadow(b, b);
    });
    block_stride_ = n_blocks_ > 1 ? source_.window_block(1) - source_.window_block(0) : 0;
    for (int64_t b = 0; b < n_blocks_; ++b) {
      float* meta = source_.window_meta(b);
      std::copy_n(meta + kBlockRows, kBlockRows, errors_.data() + b * kBlockRows);
      std::copy_n(meta + 2 * kBlockRows, kBlockRows, norms_.data() + b * kBlockRows);
    }
    // The estimate of a lane without a codeword is -inf.
    float* last = source_.window_meta(n_blocks_ - 1) + 2 * kBlockRows;
    for (int64_t i = n_codes(); i < n_blocks_ * kBlockRows; ++i) last[i % kBlockRows] = kInfinity;
  }

  void make_panels() {
    panels_.assign(n_blocks_ * dim_ * kBlockRows, 0.0f);
    std::vector<float> word(dim_);
    for (int64_t i = 0; i < n_codes(); ++i) {
      const void* row;
      source_.rows(&i, 1, &row);
      source_.norms(&i, 1, &row, &norms_[i]);
      kernels().widen(row, source_.dtype(), dim_, word.data());
      float* panel = panels_.data() + i / kBlockRows * dim_ * kBlockRows + i % kBlockRows;
      bool is_zero = true;
      for (int64_t j = 0; j < dim_; ++j) {
        panel[j * kBlockRows] = word[j];
        is_zero &= word[j] == 0.0f;
      }
      // Below 2^-60 squares may be lost to underflow. Written so that NaN is not bounded.
      const bool is_plain = norms_[i] >= 0x1p-60f && norms_[i] <= 1e18f;
      if (!is_plain && !is_zero) errors_[i] = kInfinity;
      minus_squares_[i] = -(norms_[i] * norms_[i]);
    }
  }

  ArrayRows source_;
  const int64_t n_blocks_, dim_;
  const bool is_float_;
  int64_t block_stride_ = 0;
  std::vector<float> norms_, errors_, minus_squares_, panels_;
  float worst_norm_ = 0, worst_error_ = 0;
};

// Assigns tiles of rows; one for each thread, kept between tiles for its memory.
class Tile {
 public:
  void run(const Queries& rows, const Codewords& words, int64_t begin, int64_t n, int64_t* codes,
           float* scores) {
    estimates_.resize(kTileRows * kTileBlocks * kBlockRows);
    positions_.resize(kTileBlocks * kBlockRows);
    for (int64_t i = 0; i < n; ++i) {
      found_[i].clear();
      tops_[i] = -kInfinity;
      // Twice: the best estimate may be too high by one, another too low.
      const bool is_bounded = rows.has_bounds(begin + i);
      widths_[i] = is_bounded ? 2 * words.worst_bound(rows.bound(begin + i)) : kInfinity;
    }
    for (int64_t first = 0; first < words.n_blocks(); first += kTileBlocks) {
      const int64_t n_blocks = std::min(kTileBlocks, words.n_blocks() - first);
      float tops[kTileRows];
      words.estimate(rows, begin, n, first, n_blocks, estimates_.data(), tops);
      for (int64_t i = 0; i < n; ++i) {
        tops_[i] = std::max(tops_[i], tops[i]);
        if (tops[i] >= tops_[i] - widths_[i]) collect(i, first, n_blocks);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      if (!rows.has_bounds(begin + i)) {
        found_[i].clear();
        for (int64_t code = 0; code < words.n_codes(); ++code) found_[i].push_back({code, 0});
      } else {
        std::iter_swap(found_[i].begin(),
                       std::max_element(found_[i].begin(), found_[i].end(),
                                        [](const Candidate& a, const Candidate& b) {
                                          return a.estimate < b.estimate;
                                        }));
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      if (i + 1 < n) prefetch(words, i + 1);
      codes[i] = -1;
      scores[i] = -kInfinity;
      if (rows.has_bounds(begin + i)) {
        // The score of the likeliest rules out most of the others.
        score(rows, words, begin + i, found_[i].data(), 1, codes + i, scores + i);
        judge(rows.bound(begin + i), words, i, scores[i]);
      }
      score(rows, words, begin + i, found_[i].data(), found_[i].size(), codes + i, scores + i);
    }
  }

 private:
  struct Candidate {
    int64_t code;
    float estimate;
  };

  // Keeps the codewords of these blocks that may still be the nearest.
  void collect(int64_t i, int64_t first, int64_t n_blocks) {
    const float* estimates = estimates_.data() + i * n_blocks * kBlockRows;
    const float least = round_down(tops_[i] - widths_[i]);
    const int64_t n = kernels().at_least(estimates, n_blocks, least, positions_.data());
    for (int64_t j = 0; j < n; ++j) {
      found_[i].push_back({first * kBlockRows + positions_[j], estimates[positions_[j]]});
    }
  }

  // Drops the likeliest, which has been scored, and what cannot reach its score.
  void judge(const BoundQuery& row, const Codewords& words, int64_t i, float reached) {
    std::vector<Candidate>& found = found_[i];
    found.front() = found.back();
    found.pop_back();
    const double least = reached + static_cast<double>(row.norm) * row.norm;
    std::erase_if(found, [=, &words, &row](const Candidate& c) {
      return c.estimate + words.bound(row, c.code) < least;
    });
  }

  void prefetch(const Codewords& words, int64_t i) const {
    if (!found_[i].empty()) words.source().prefetch(&found_[i].front().code, 1);
  }

  // The canonical scores have the last word.
  static void score(const Queries& rows, const Codewords& words, int64_t row,
                    const Candidate* found, size_t n_found, int64_t* code, float* score) {
    int64_t asked[kScoreRows];
    float scores[kScoreRows];
    for (size_t begin = 0; begin < n_found; begin += kScoreRows) {
      const int64_t n = std::min<int64_t>(kScoreRows, static_cast<int64_t>(n_found - begin));
      for (int64_t j = 0; j < n; ++j) asked[j] = found[begin + j].code;
      canonical_scores(rows, row, words.source(), asked, n, scores);
      for (int64_t j = 0; j < n; ++j) {
        if (scores[j] < *score || (scores[j] == *score && asked[j] > *code && *code >= 0)) continue;
        // -0 becomes +0.
        *score = scores[j] + 0.0f;
        *code = asked[j];
      }
    }
  }

  std::vector<float> estimates_;
  std::vector<int32_t> positions_;
  std::vector<Candidate> found_[kTileRows];
  float tops_[kTileRows];
  double widths_[kTileRows];
};

}  // namespace

void assign(const KeysView& rows, const KeysView& codewords, Interrupt& interrupt, int64_t* codes,
            float* scores) {
  const auto prepare = [&](int64_t begin, int64_t n) {
    return Queries("assign", rows.data + begin * rows.row_stride, rows.dtype, n, rows.dim,
                   rows.row_stride, rows.column_stride, Metric::kL2, begin);
  };
  if (rows.n_rows >= kFewRows && codewords.n_rows >= kFewCodes && rows.dim > 0 &&
      rows.dim <= kMaxScanDim) {
    const Codewords words(codewords);
    if (words.is_bounded()) {
      const int64_t batch_rows = std::max<int64_t>(kBatchTiles, 4 * n_threads()) * kTileRows;
      for (int64_t batch = 0; batch < rows.n_rows; batch += batch_rows) {
        Queries prepared = prepare(batch, std::min(batch_rows, rows.n_rows - batch));
        prepared.reserve_codes();
        parallel_for((prepared.size() + kTileRows - 1) / kTileRows, [&](int64_t task) {
          thread_local Tile tile;
          const int64_t begin = task * kTileRows, n = std::min(kTileRows, prepared.size() - begin);
          for (int64_t i = begin; i < begin + n; ++i) {
            if (words.is_float()) {
              prepared.bound_product(i);
            } else {
              prepared.quantize(i, false);
            }
          }
          tile.run(prepared, words, begin, n, codes + batch + begin, scores + batch + begin);
          interrupt.poll();
        });
      }
      return;
    }
  }
  const int64_t one = 1;
  SearchOptions options;
  options.k = {&one, 0};
  options.range = {-kInfinity, kInfinity};
  Queries prepared = prepare(0, rows.n_rows);
  search(prepared, codewords, nullptr, nullptr, options, interrupt, 1, scores, codes);
}

}  // namespace memcore
