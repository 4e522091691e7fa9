#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "scan.h"
#include "search_pages.h"

namespace memcore {

// Queries whose banks descend from one bank, and so may share pages: a page that several of them
// reach is loaded once. One object serves one family after the other; it owns only scratch memory.
class FamilySearch {
 public:
  // A family is searched in sets of at most this many queries.
  static constexpr int64_t kDenseQueries = 12;
  static constexpr int64_t kLargeQueries = 96;

  // Queries asked[0 … n) at the banks `banks[q]`.
  void begin(const Pages& pages, const Queries& queries, const BankView* banks,
             const int64_t* asked, int64_t n, const PageSearchOptions& options);

  // Looks at blocks first … last - 1, which are all of every bank, or a part of large ones. Reads
  // `upcoming`, the first blocks of the family that comes next (none if empty), into the cache on
  // the way.
  void scan(int64_t first, int64_t last, const std::vector<const uint8_t*>& upcoming,
            Interrupt& interrupt);

  // A threshold for large banks, from blocks spread over them.
  void seed();

  // The rows left to score are on their way into the cache after this; finish scores them.
  void prefetch() const;
  void finish();

  int64_t size() const { return n_; }
  int64_t query(int64_t i) const { return members_[i].query; }
  Best& best(int64_t i) { return collectors_[i].best(); }
  int64_t n_blocks() const { return n_blocks_; }

 private:
  struct Member {
    int64_t query;
    BankRows rows;
    const uint16_t* allowed;
    // The rows that `allowed` allows, if there are so few that they are scored without a first
    // pass.
    const std::vector<int64_t>* few;
    bool is_exact;
  };

  // What a condition allows in a bank.
  struct Allowed {
    std::vector<uint16_t> masks;
    std::vector<int64_t> rows;
  };

  void find_allowed(const Pages& pages, int64_t i, const PageSearchOptions& options);
  void offer_few(int64_t first_row, int64_t last_row, Interrupt& interrupt);
  // look(group, subset, n_subset) for each set of members that share blocks among first … last - 1.
  template <class Look>
  void each_shared(int64_t first, int64_t last, const std::vector<const uint8_t*>* upcoming,
                   const Look& look);
  template <class Look>
  void share(int64_t p, int64_t n, std::vector<int32_t>& members,
             const std::vector<const uint8_t*>* upcoming, const Look& look);
  template <class Look>
  void look_at(int64_t p, int64_t n_blocks, const int32_t* subset, int64_t n_subset,
               const std::vector<const uint8_t*>* upcoming, const Look& look);

  const Queries* queries_ = nullptr;
  int64_t n_ = 0, n_blocks_ = 0;
  std::vector<Member> members_;
  std::vector<Collector> collectors_;
  std::vector<Collector*> pointers_;
  // The members that take the first pass; the scan knows them by their place here.
  std::vector<int32_t> scanned_;
  std::vector<int32_t> remaining_, subset_;
  std::deque<Allowed> allowed_;
  int64_t n_allowed_ = 0;
  // All members have this mask, so that blocks without an allowed row are passed over.
  const uint16_t* shared_mask_ = nullptr;
  // All members look at the pages of one bank.
  bool is_one_bank_ = false;
  Scan scan_;
  ScoreRange range_;
};

}  // namespace memcore
