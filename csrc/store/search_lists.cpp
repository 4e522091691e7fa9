#include "search_lists.h"

#include <algorithm>
#include <numeric>
#include <shared_mutex>

#include "check.h"
#include "float_env.h"
#include "scan.h"
#include "slab_rows.h"

namespace memcore {
namespace {

// Queries that are searched together: so many share lists, and so few keep their candidates in the
// cache.
constexpr int64_t kTaskQueries = 1024;
// Of those, so many look at their likeliest lists at a time: the bounds of all rows are kept.
constexpr int64_t kFirstQueries = 12;
constexpr int64_t kPolledBlocks = 64;
// A query's lists are shared out to threads in parts of at least this many probes.
constexpr int64_t kPartProbes = 64;

// The norm that a shorter query is taken to have, so that it visits some lists.
constexpr float kLeastNorm = 1e-30f;

// That query `member` of a task visits a list.
struct Visit {
  int32_t list;
  int32_t member;
};

// One task: some queries, and for each the same range of its probes. Owns only scratch memory.
class ListsSearch {
 public:
  void run(const Pages& pages, const ProbesView& view, const Queries& queries,
           const PageSearchOptions& options, const int64_t* asked, int64_t n, int64_t first_probe,
           int64_t last_probe, Interrupt& interrupt) {
    const SlabRows rows(pages, options.weights);
    pages_ = &pages;
    rows_ = &rows;
    view_ = &view;
    queries_ = &queries;
    options_ = &options;
    asked_ = asked;
    if (static_cast<int64_t>(collectors_.size()) < n) collectors_.resize(n);
    pointers_.resize(n);
    place_.assign(n, -1);
    int64_t n_scanned = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t k = options.k[asked[i]];
      collectors_[i].reset(queries, asked[i], rows, k, options.range, nullptr);
      if (options.first_pass == FirstPass::kOff || !queries.has_bounds(asked[i])) continue;
      pointers_[n_scanned] = &collectors_[i];
      place_[i] = static_cast<int32_t>(n_scanned++);
    }
    if (first_probe < last_probe) {
      look_at_likeliest(n, first_probe, rows.is_weighted(), interrupt);
      scan_.begin(queries, pointers_.data(), n_scanned, rows.is_weighted());
      look_at_all(0, n, first_probe + 1, last_probe, {&scan_, 0, false}, interrupt);
    }
    for (int64_t i = 0; i < n; ++i) {
      if (place_[i] < 0) continue;
      if (i + 1 < n) collectors_[i + 1].prefetch();
      collectors_[i].finish();
    }
  }

  Best& best(int64_t i) { return collectors_[i].best(); }

 private:
  // Who looks: the scan of the queries from place `first` on; whether it keeps the bounds of all
  // rows.
  struct Look {
    Scan* scan;
    int32_t first;
    bool measures;
  };

  // The likeliest list of each query: it sets the threshold that rules out most rows of the others.
  // Its bounds are all kept and the threshold is chosen from them, for a few queries at a time.
  void look_at_likeliest(int64_t n, int64_t probe, bool is_weighted, Interrupt& interrupt) {
    int32_t n_before = 0;
    for (int64_t begin = 0; begin < n; begin += kFirstQueries) {
      const int64_t end = std::min(n, begin + kFirstQueries);
      const int32_t n_here = static_cast<int32_t>(std::count_if(
          place_.begin() + begin, place_.begin() + end, [](int32_t p) { return p >= 0; }));
      first_.begin(*queries_, pointers_.data() + n_before, n_here, is_weighted);
      look_at_all(begin, end, probe, probe + 1, {&first_, n_before, true}, interrupt);
      first_.settle(true);
      n_before += n_here;
    }
  }

  // Lists at some of the probes of some queries.
  void look_at_all(int64_t first, int64_t last, int64_t begin, int64_t end, const Look& look,
                   Interrupt& interrupt) {
    gather(first, last, begin, end);
    for (size_t i = 0; i < visits_.size();) {
      size_t next = i;
      while (next < visits_.size() && visits_[next].list == visits_[i].list) ++next;
      const int32_t upcoming = visits_[next < visits_.size() ? next : i].list;
      look_at(visits_.data() + i, static_cast<int64_t>(next - i), upcoming, look, interrupt);
      i = next;
    }
  }

  // visits_ = the lists that queries first … last - 1 name at these probes, list by list if there
  // is more than one query.
  void gather(int64_t first, int64_t last, int64_t begin, int64_t end) {
    visits_.clear();
    for (int64_t i = first; i < last; ++i) {
      if (options_->k[asked_[i]] == 0) continue;
      const int64_t* probes = view_->probes + asked_[i] * view_->n_probes;
      for (int64_t p = begin; p < end; ++p) {
        if (probes[p] >= 0)
          visits_.push_back({static_cast<int32_t>(probes[p]), static_cast<int32_t>(i)});
      }
    }
    if (last - first == 1) return;
    std::sort(visits_.begin(), visits_.end(), [](const Visit& a, const Visit& b) {
      return a.list < b.list || (a.list == b.list && a.member < b.member);
    });
  }

  BankView list(int32_t place) const { return pages_->view(view_->lists[place], "search", place); }

  // The rows of one list, for all that visit it; those of the upcoming list begin to be fetched.
  void look_at(const Visit* visits, int64_t n, int32_t upcoming, Look look, Interrupt& interrupt) {
    const BankView bank = list(visits[0].list), then = list(upcoming);
    const int64_t n_then = (then.n_rows + kBlockRows - 1) / kBlockRows;
    const int64_t n_blocks = (bank.n_rows + kBlockRows - 1) / kBlockRows;
    const Slab& slab = pages_->slab();
    look.measures = look.measures && n_blocks <= Scan::kDenseBlocks;
    // Members in order of their conditions, so that each is evaluated once for a page.
    members_.clear();
    for (int64_t i = 0; i < n; ++i) members_.push_back(visits[i].member);
    if (options_->where_index != nullptr) {
      std::stable_sort(members_.begin(), members_.end(),
                       [&](int32_t a, int32_t b) { return condition(a) < condition(b); });
    }
    for (int64_t begin = 0; begin < n_blocks; begin += kScanBlocks) {
      const int64_t end = std::min(n_blocks, begin + kScanBlocks);
      BlockGroup group;
      group.n_blocks = end - begin;
      const bool is_last = end == n_blocks;
      const BankView& next = is_last ? then : bank;
      const int64_t first = is_last ? 0 : end, n_next = is_last ? n_then : n_blocks;
      group.has_next = first < n_next;
      for (int64_t b = 0; b < group.n_blocks; ++b) {
        group.blocks[b] = slab.block(bank.pages[begin + b]);
        group.index[b] = bank.pages[begin + b];
        if (group.has_next) group.next[b] = slab.block(next.pages[std::min(first + b, n_next - 1)]);
      }
      for (int64_t i = 0, last; i < n; i = last) {
        for (last = i + 1; last < n && condition(members_[last]) == condition(members_[i]);) ++last;
        if (set_live(group, bank, begin, condition(members_[i])))
          offer(group, members_.data() + i, last - i, look);
      }
      // The clock is not for every group.
      if (is_last || begin % kPolledBlocks == 0) interrupt.poll();
    }
  }

  int64_t condition(int32_t member) const {
    return options_->where_index == nullptr ? -1 : options_->where_index[asked_[member]];
  }

  // Which lanes of the group hold rows that meet a condition (-1: any). False if none does.
  bool set_live(BlockGroup& group, const BankView& bank, int64_t begin, int64_t index) const {
    uint32_t any = 0;
    for (int64_t b = 0; b < group.n_blocks; ++b) {
      const int64_t n_lanes = std::min<int64_t>(kBlockRows, bank.n_rows - (begin + b) * kBlockRows);
      uint32_t live = (1u << n_lanes) - 1;
      if (index >= 0)
        live &= (*options_->programs)[index].evaluate(pages_->slab(), bank.pages[begin + b]);
      group.live[b] = static_cast<uint16_t>(live);
      any |= live;
    }
    return any != 0;
  }

  void offer(const BlockGroup& group, const int32_t* members, int64_t n, const Look& look) {
    subset_.clear();
    for (int64_t i = 0; i < n; ++i) {
      if (place_[members[i]] >= 0) {
        subset_.push_back(place_[members[i]] - look.first);
        continue;
      }
      for (int64_t b = 0; b < group.n_blocks; ++b) {
        offer_range(*queries_, asked_[members[i]], *rows_, group.index[b] * kBlockRows,
                    (group.index[b] + 1) * kBlockRows, &group.live[b], options_->range,
                    collectors_[members[i]].best());
      }
    }
    if (subset_.empty()) return;
    if (look.measures) {
      look.scan->measure(group, subset_.data(), static_cast<int64_t>(subset_.size()));
    } else {
      look.scan->visit(group, subset_.data(), static_cast<int64_t>(subset_.size()));
    }
  }

  const Pages* pages_ = nullptr;
  const SlabRows* rows_ = nullptr;
  const ProbesView* view_ = nullptr;
  const Queries* queries_ = nullptr;
  const PageSearchOptions* options_ = nullptr;
  const int64_t* asked_ = nullptr;
  std::vector<Collector> collectors_;
  // The queries that take the first pass, and where each is among them, or -1.
  std::vector<Collector*> pointers_;
  std::vector<int32_t> place_;
  std::vector<Visit> visits_;
  std::vector<int32_t> members_, subset_;
  Scan first_, scan_;
};

// The rows that a query names, each once, scored one by one.
void search_named(const Pages& pages, const ProbesView& view, const Queries& queries,
                  const PageSearchOptions& options, int64_t q, std::vector<int64_t>& slots,
                  Best& best) {
  slots.clear();
  for (int64_t i = q * view.n_probes; i < (q + 1) * view.n_probes; ++i) {
    if (view.probes[i] < 0 || options.candidates[i] < 0) continue;
    const int64_t slot = pages.find_slot(view.lists[view.probes[i]], options.candidates[i]);
    if (slot < 0) continue;
    const int64_t index = options.where_index == nullptr ? -1 : options.where_index[q];
    if (index >= 0 &&
        ((*options.programs)[index].evaluate(pages.slab(), page_of(slot)) >> lane_of(slot) & 1) ==
            0)
      continue;
    slots.push_back(slot);
  }
  std::sort(slots.begin(), slots.end());
  slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
  best.reset(options.k[q]);
  if (options.k[q] == 0) return;
  offer_rows(queries, q, SlabRows(pages, options.weights), slots.data(),
             static_cast<int64_t>(slots.size()), options.range, best);
}

}  // namespace

void search_lists(Pages& pages, const ProbesView& view, Queries& queries,
                  const PageSearchOptions& options, Interrupt& interrupt, int64_t width,
                  float* scores, int64_t* ids) {
  const FloatEnv env;
  const int64_t n = queries.size();
  const auto write = [&](int64_t q, Best& best) {
    best.write(scores + q * width, ids + q * width, width);
  };
  if (options.candidates != nullptr) {
    const std::shared_lock<RwLock> lock(pages.lock());
    return parallel_for(n, [&](int64_t q) {
      Best best;
      std::vector<int64_t> slots;
      search_named(pages, view, queries, options, q, slots, best);
      write(q, best);
      interrupt.poll();
    });
  }
  if (options.first_pass != FirstPass::kOff && queries.dim() <= kMaxScanDim) {
    queries.reserve_codes();
    parallel_for(n, [&](int64_t q) { queries.quantize(q, n == 1); });
  }
  const std::shared_lock<RwLock> lock(pages.lock());
  // Queries that begin in the same list are neighbours: they share most others too.
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (n > 1 && view.n_probes > 0) {
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return view.probes[a * view.n_probes] < view.probes[b * view.n_probes];
    });
  }
  const int64_t n_chunks =
      std::clamp<int64_t>((n + kTaskQueries - 1) / kTaskQueries, std::min<int64_t>(n, n_threads()),
                          std::max(n, int64_t{1}));
  const int64_t n_parts = n_chunks >= n_threads()
                              ? 1
                              : std::clamp<int64_t>(view.n_probes / kPartProbes, 1,
                                                    n_threads() / std::max<int64_t>(n_chunks, 1));
  const auto begin_of = [&](int64_t chunk) { return n * chunk / n_chunks; };
  const auto search = [&](ListsSearch& task, int64_t chunk, int64_t part) {
    task.run(pages, view, queries, options, order.data() + begin_of(chunk),
             begin_of(chunk + 1) - begin_of(chunk), view.n_probes * part / n_parts,
             view.n_probes * (part + 1) / n_parts, interrupt);
  };
  if (n_parts == 1) {
    return parallel_for(n_chunks, [&](int64_t chunk) {
      thread_local ListsSearch task;
      search(task, chunk, 0);
      for (int64_t i = begin_of(chunk); i < begin_of(chunk + 1); ++i)
        write(order[i], task.best(i - begin_of(chunk)));
    });
  }
  std::vector<ListsSearch> parts(n_chunks * n_parts);
  parallel_for(n_chunks * n_parts, [&](int64_t t) { search(parts[t], t / n_parts, t % n_parts); });
  for (int64_t chunk = 0; chunk < n_chunks; ++chunk) {
    for (int64_t i = 0; i < begin_of(chunk + 1) - begin_of(chunk); ++i) {
      Best& best = parts[chunk * n_parts].best(i);
      for (int64_t part = 1; part < n_parts; ++part) {
        for (const Hit& hit : parts[chunk * n_parts + part].best(i).hits())
          best.offer(hit.score, hit.id);
      }
      write(order[begin_of(chunk) + i], best);
    }
  }
}

void choose_lists(const Route& route, Queries& queries, Interrupt& interrupt, int64_t* probes) {
  const int64_t n = queries.size(), width = route.n_probes;
  std::vector<float> scores(n * width);
  PageSearchOptions options;
  options.k = {&width, 0};
  search_pages(route.centroids, {&route.bank, 1, 0}, queries, options, interrupt, width,
               scores.data(), probes);
  for (int64_t q = 0; q < n; ++q) {
    const float* found = scores.data() + q * width;
    const float unit =
        queries.metric() == Metric::kDot ? std::max(queries.norm(q), kLeastNorm) : 1.0f;
    for (int64_t i = 1; i < width; ++i) {
      if ((found[0] - found[i]) / unit > route.gap) probes[q * width + i] = -1;
    }
  }
}

}  // namespace memcore
