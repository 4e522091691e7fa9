#include "family.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace memcore {
namespace {

// With fewer rows than this the float32 scan is as fast as the first pass and what follows it.
constexpr int64_t kFewRows = 16;

// Of a block with an allowed row the first pass reads all rows; on AVX2 it takes as long as scoring
// two of them, for one query as for many.
bool are_few(int64_t n_rows, int64_t n_blocks) { return 2 * n_rows <= 3 * n_blocks; }

// The bits of a block's rows, of which n are left.
uint16_t lanes_of(int64_t n) {
  return static_cast<uint16_t>(n >= kBlockRows ? 0xffff : (1u << n) - 1);
}

bool is_exact(const Queries& queries, int64_t q, const BankRows& rows,
              const PageSearchOptions& options) {
  const int64_t k = options.k[q];
  if (k == 0 || options.first_pass == FirstPass::kOff || !queries.has_bounds(q)) return true;
  if (options.first_pass == FirstPass::kOn) return false;
  return rows.n_rows() <= kFewRows || k >= rows.n_rows() / 2;
}

}  // namespace

void FamilySearch::begin(const Pages& pages, const Queries& queries, const BankView* banks,
                         const int64_t* asked, int64_t n, const PageSearchOptions& options) {
  n_ = n;
  n_blocks_ = 0;
  n_allowed_ = 0;
  range_ = options.range;
  queries_ = &queries;
  members_.resize(n);
  if (static_cast<int64_t>(collectors_.size()) < n) collectors_.resize(n);
  pointers_.clear();
  scanned_.clear();
  for (int64_t i = 0; i < n; ++i) {
    Member& member = members_[i];
    member.query = asked[i];
    member.rows = BankRows(pages, banks[asked[i]], options.weights);
    find_allowed(pages, i, options);
    member.is_exact = member.few != nullptr || is_exact(queries, asked[i], member.rows, options);
    n_blocks_ = std::max(n_blocks_, member.rows.n_blocks());
    collectors_[i].reset(queries, asked[i], member.rows, options.k[asked[i]], range_,
                         member.allowed);
    if (member.is_exact) continue;
    pointers_.push_back(&collectors_[i]);
    scanned_.push_back(static_cast<int32_t>(i));
  }
  shared_mask_ = scanned_.empty() ? nullptr : members_[scanned_[0]].allowed;
  is_one_bank_ = !scanned_.empty();
  for (const int32_t i : scanned_) {
    if (members_[i].allowed != shared_mask_) shared_mask_ = nullptr;
    is_one_bank_ &= members_[i].rows.bank().pages == members_[scanned_[0]].rows.bank().pages &&
                    members_[i].rows.n_rows() == members_[scanned_[0]].rows.n_rows();
  }
  const bool is_weighted = options.weights.scale >= 0 || options.weights.bias >= 0;
  scan_.begin(queries, pointers_.data(), static_cast<int64_t>(pointers_.size()), is_weighted);
}

// What a condition allows in a bank is found once for queries that come with the same bank and
// condition.
void FamilySearch::find_allowed(const Pages& pages, int64_t i, const PageSearchOptions& options) {
  const auto condition = [&](int64_t q) {
    return options.where_index == nullptr ? -1 : options.where_index[q];
  };
  Member& member = members_[i];
  member.allowed = nullptr;
  member.few = nullptr;
  const int64_t index = condition(member.query);
  if (index < 0) return;
  if (i > 0 && condition(members_[i - 1].query) == index &&
      members_[i - 1].rows.bank().pages == member.rows.bank().pages) {
    member.allowed = members_[i - 1].allowed;
    member.few = members_[i - 1].few;
    return;
  }
  if (static_cast<int64_t>(allowed_.size()) == n_allowed_) allowed_.emplace_back();
  Allowed& found = allowed_[n_allowed_++];
  const int64_t n_blocks = member.rows.n_blocks();
  // An empty bank needs an address too.
  found.masks.resize(std::max<int64_t>(n_blocks, 1));
  const Where& where = (*options.programs)[index];
  int64_t n_rows = 0, n_blocks_left = 0;
  for (int64_t b = 0; b < n_blocks; ++b) {
    const uint16_t mask = where.evaluate(pages.slab(), member.rows.bank().pages[b]) &
                          lanes_of(member.rows.n_rows() - b * kBlockRows);
    found.masks[b] = mask;
    n_rows += std::popcount(mask);
    n_blocks_left += mask != 0;
  }
  member.allowed = found.masks.data();
  if (options.first_pass == FirstPass::kOn || !are_few(n_rows, n_blocks_left)) return;
  found.rows.clear();
  for (int64_t b = 0; b < n_blocks; ++b) {
    for (uint32_t left = found.masks[b]; left != 0; left &= left - 1)
      found.rows.push_back(b * kBlockRows + std::countr_zero(left));
  }
  member.few = &found.rows;
}

template <class Look>
void FamilySearch::look_at(int64_t p, int64_t n_blocks, const int32_t* subset, int64_t n_subset,
                           const std::vector<const uint8_t*>* upcoming, const Look& look) {
  const BankRows& rows = members_[scanned_[subset[0]]].rows;
  BlockGroup group;
  for (int64_t b = p; b < p + n_blocks; ++b) group.add(rows, b, rows.block(b));
  for (int64_t b = 0; b < n_blocks; ++b) {
    const int64_t next = p + n_blocks + b;
    if (next < rows.n_blocks()) {
      group.next[b] = rows.block(next);
    } else if (upcoming != nullptr && !upcoming->empty()) {
      group.next[b] = (*upcoming)[std::min<int64_t>(b, static_cast<int64_t>(upcoming->size()) - 1)];
    } else {
      group.next[b] = group.blocks[b];
    }
  }
  group.has_next = true;
  look(group, subset, n_subset);
}

// Members that reach the same pages at p … p + n - 1 look at them together; `members` are the
// numbers of those that have a block at p.
template <class Look>
void FamilySearch::share(int64_t p, int64_t n, std::vector<int32_t>& members,
                         const std::vector<const uint8_t*>* upcoming, const Look& look) {
  const auto width = [&](int32_t j) {
    return std::min(n, members_[scanned_[j]].rows.n_blocks() - p);
  };
  const auto pages = [&](int32_t j) { return members_[scanned_[j]].rows.bank().pages + p; };
  const auto is_whole = [&](int32_t j) {
    return members_[scanned_[j]].rows.n_rows() >= (p + width(j)) * kBlockRows;
  };
  const auto is_same = [&](int32_t a, int32_t b) {
    if (pages(a) == pages(b)) return true;
    if (width(a) != width(b) || std::memcmp(pages(a), pages(b), width(a) * sizeof(int32_t)) != 0)
      return false;
    return (is_whole(a) && is_whole(b)) ||
           members_[scanned_[a]].rows.n_rows() == members_[scanned_[b]].rows.n_rows();
  };
  while (!members.empty()) {
    const int32_t first = members[0];
    subset_.clear();
    size_t n_left = 0;
    for (const int32_t j : members) {
      if (is_same(first, j)) {
        subset_.push_back(j);
      } else {
        members[n_left++] = j;
      }
    }
    members.resize(n_left);
    if (n_left > 0 && n > 1) {
      // Not all share all of these pages: look for what they share one page at a time.
      members.insert(members.end(), subset_.begin(), subset_.end());
      std::sort(members.begin(), members.end());
      std::vector<int32_t> here;
      for (int64_t b = p; b < p + n; ++b) {
        here.clear();
        for (const int32_t j : members) {
          if (b < members_[scanned_[j]].rows.n_blocks()) here.push_back(j);
        }
        share(b, 1, here, upcoming, look);
      }
      members.clear();
      return;
    }
    look_at(p, width(first), subset_.data(), static_cast<int64_t>(subset_.size()), upcoming, look);
  }
}

template <class Look>
void FamilySearch::each_shared(int64_t first, int64_t last,
                               const std::vector<const uint8_t*>* upcoming, const Look& look) {
  const int64_t n_scanned = static_cast<int64_t>(scanned_.size());
  for (int64_t p = first; p < last; p += kScanBlocks) {
    const int64_t n = std::min(kScanBlocks, last - p);
    if (shared_mask_ != nullptr) {
      uint32_t any = 0;
      for (int64_t b = p; b < std::min(p + n, members_[scanned_[0]].rows.n_blocks()); ++b)
        any |= shared_mask_[b];
      if (any == 0) continue;
    }
    if (is_one_bank_) {
      const int64_t n_here = std::min(n, members_[scanned_[0]].rows.n_blocks() - p);
      if (n_here > 0) look_at(p, n_here, scan_.everyone(), n_scanned, upcoming, look);
      continue;
    }
    remaining_.clear();
    for (int32_t j = 0; j < n_scanned; ++j) {
      if (p < members_[scanned_[j]].rows.n_blocks()) remaining_.push_back(j);
    }
    share(p, n, remaining_, upcoming, look);
  }
}

void FamilySearch::seed() {
  constexpr int64_t kPlaces = 8;
  if (scanned_.empty()) return;
  int64_t n_blocks = n_blocks_;
  for (const int32_t i : scanned_) n_blocks = std::min(n_blocks, members_[i].rows.n_blocks());
  if (n_blocks <= Scan::kDenseBlocks || shared_mask_ != nullptr) return;
  for (int64_t place = 0; place < kPlaces; ++place) {
    const int64_t p = n_blocks * place / kPlaces;
    each_shared(p, p + kScanBlocks, nullptr,
                [&](const BlockGroup& group, const int32_t* subset, int64_t n) {
                  scan_.measure(group, subset, n);
                });
  }
  scan_.settle(false);
}

void FamilySearch::scan(int64_t first, int64_t last, const std::vector<const uint8_t*>& upcoming,
                        Interrupt& interrupt) {
  if (n_blocks_ <= Scan::kDenseBlocks) {
    each_shared(first, last, &upcoming,
                [&](const BlockGroup& group, const int32_t* subset, int64_t n) {
                  scan_.measure(group, subset, n);
                });
    scan_.settle(true);
  } else if (is_one_bank_) {
    const int64_t end = std::min(last, members_[scanned_[0]].rows.n_blocks());
    scan_.visit_range(members_[scanned_[0]].rows, first, end - first,
                      shared_mask_ == nullptr ? nullptr : shared_mask_ + first, interrupt);
  } else {
    each_shared(first, last, &upcoming,
                [&](const BlockGroup& group, const int32_t* subset, int64_t n) {
                  scan_.visit(group, subset, n);
                  interrupt.poll();
                });
  }
  offer_few(first * kBlockRows, last * kBlockRows, interrupt);
  constexpr int64_t kPolledBlocks = 16;
  for (int64_t i = 0; i < n_; ++i) {
    const Member& member = members_[i];
    if (!member.is_exact || member.few != nullptr || collectors_[i].k() == 0) continue;
    const int64_t end = std::min(last, member.rows.n_blocks());
    for (int64_t b = first; b < end; b += kPolledBlocks) {
      const int64_t stop =
          std::min(member.rows.n_rows(), std::min(end, b + kPolledBlocks) * kBlockRows);
      offer_range(*queries_, member.query, member.rows, b * kBlockRows, stop,
                  member.allowed == nullptr ? nullptr : member.allowed + b, range_,
                  collectors_[i].best());
      interrupt.poll();
    }
  }
}

// Members that name the same few rows score them together, while they are in the cache.
void FamilySearch::offer_few(int64_t first_row, int64_t last_row, Interrupt& interrupt) {
  for (int64_t i = 0, end; i < n_; i = end) {
    const std::vector<int64_t>* few = members_[i].few;
    for (end = i + 1; end < n_ && members_[end].few == few;) ++end;
    if (few == nullptr) continue;
    const int64_t* row =
        few->data() + (std::lower_bound(few->begin(), few->end(), first_row) - few->begin());
    const int64_t* stop =
        few->data() + (std::lower_bound(few->begin(), few->end(), last_row) - few->begin());
    for (int64_t n = 0; row < stop; row += n) {
      n = std::min<int64_t>(kScoreRows, stop - row);
      members_[i].rows.prefetch(row + n, std::min<int64_t>(kScoreRows, stop - row - n));
      for (int64_t j = i; j < end; ++j) {
        if (collectors_[j].k() > 0)
          offer_rows(*queries_, members_[j].query, members_[j].rows, row, n, range_,
                     collectors_[j].best());
      }
      interrupt.poll();
    }
  }
}

void FamilySearch::prefetch() const {
  for (const int32_t i : scanned_) collectors_[i].prefetch();
}

void FamilySearch::finish() {
  for (const int32_t i : scanned_) collectors_[i].finish();
}

}  // namespace memcore
