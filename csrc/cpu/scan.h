#pragma once

#include <cstdint>
#include <vector>

#include "exact.h"
#include "threads.h"

namespace memcore {

// One query's way through the first pass: rows that may be among its k best, and what proves that
// others are not. Every row kept out has an upper bound below the k-th best lower bound of the rows
// seen.
class Collector {
 public:
  // allowed: the rows that may be returned, 16 bits a block, or nullptr for all.
  void reset(const Queries& queries, int64_t query, const RowSource& source, int64_t k,
             ScoreRange range, const uint16_t* allowed);

  int64_t query() const { return query_; }
  int64_t k() const { return k_; }
  float threshold() const { return threshold_; }
  ScoreRange range() const { return range_; }
  const RowSource& source() const { return *source_; }
  bool is_masked() const { return allowed_ != nullptr; }
  uint32_t allowed(int64_t block) const { return allowed_[block - allowed_first_]; }
  // For a window of blocks from `first`, whose masks are made as the scan gets there.
  void set_allowed(const uint16_t* allowed, int64_t first) {
    allowed_ = allowed;
    allowed_first_ = first;
  }
  Best& best() { return best_; }

  // A row whose final score lies between lower and upper.
  void offer(int64_t row, float lower, float upper);

  // A row that reaches the threshold, once the threshold holds for all rows.
  void keep(int64_t row, float upper) { candidates_.push_back({row, upper}); }

  // Learns from n proven lower bounds, each of another row or -infinity; n is a multiple of 16.
  // Reorders them.
  void raise(float* lowers, int64_t n);

  // Starts the rows of the likeliest candidates on their way into the cache.
  void prefetch() const;

  // Scores what is left. Afterwards best() holds the answer over all rows offered.
  void finish();

 private:
  struct Candidate {
    int64_t row;
    float upper;
  };

  void make_room();
  void drop_below(float threshold);
  void score(const Candidate* candidates, int64_t n);

  const Queries* queries_ = nullptr;
  const RowSource* source_ = nullptr;
  int64_t query_ = 0, k_ = 0;
  ScoreRange range_;
  const uint16_t* allowed_ = nullptr;
  int64_t allowed_first_ = 0;
  float threshold_ = 0;
  // The best lower bounds so far, the worst of them first (a heap).
  std::vector<float> lowers_;
  std::vector<Candidate> candidates_;
  Best best_;
};

// A few blocks to look at: where they are and which of their lanes hold rows.
struct BlockGroup {
  const uint8_t* blocks[kScanBlocks];
  const uint8_t* next[kScanBlocks];
  // Block i holds rows index[i] * 16 …, and `live` says which of its lanes are rows.
  int64_t index[kScanBlocks];
  uint16_t live[kScanBlocks];
  int64_t n_blocks = 0;
  bool has_next = false;

  void add(const RowSource& source, int64_t number, const uint8_t* block);
};

// The first pass for a set of queries. It owns only scratch memory, so that a thread can use one
// for many searches.
class Scan {
 public:
  // A list of no more blocks than this has the bounds of all its rows kept, and its threshold
  // chosen from them.
  static constexpr int64_t kDenseBlocks = 64;

  // The queries of `collectors`, aimed at their thresholds.
  void begin(const Queries& queries, Collector* const* collectors, int64_t n, bool is_weighted);

  // Offers the rows of a group to those of the collectors `subset`, ascending, that cannot rule
  // them out.
  void visit(const BlockGroup& group, const int32_t* subset, int64_t n_subset);

  // visit, by all collectors, for blocks first … first + n - 1 of one source. Blocks without a row
  // in `allowed` (counted from `first`) are passed over; nullptr visits all.
  void visit_range(const RowSource& source, int64_t first, int64_t n, const uint16_t* allowed,
                   Interrupt& interrupt);

  // The bounds of every row of a group, for those collectors whose numbers are in `subset`.
  void measure(const BlockGroup& group, const int32_t* subset, int64_t n_subset);

  // The numbers of all collectors, as a subset.
  const int32_t* everyone() const { return everyone_.data(); }

  // After measure over all of a list of at most kDenseBlocks blocks (or over a sample of one):
  // raises each collector's threshold, and, if `offers`, offers the rows that reach it.
  void settle(bool offers);

  // Gives back what measure kept bounds in: 8 KB a query.
  void release_bounds();

 private:
  void aim(int64_t i);
  const ScanQuery* aimed(const int32_t* subset, int64_t n_subset);
  void look(int64_t i, const BlockGroup& group, const uint16_t* masks, const int32_t* dots);
  void bounds(int64_t i, const uint8_t* block, int64_t index, const int32_t* dots, float* lower,
              float* upper) const;

  const Queries* queries_ = nullptr;
  Collector* const* collectors_ = nullptr;
  int64_t n_ = 0;
  bool is_weighted_ = false;
  std::vector<ScanQuery> aimed_, subset_;
  std::vector<int32_t> everyone_;
  std::vector<uint16_t> masks_;
  std::vector<int32_t> dots_;
  // Bounds kept by measure: [collector][kDenseBlocks * 16], and the blocks they belong to.
  std::vector<float> lower_, upper_;
  std::vector<int64_t> measured_;
  std::vector<int64_t> measured_index_;
  std::vector<float> values_;
  std::vector<int32_t> reached_;
};

}  // namespace memcore
