#include "search.h"

#include <algorithm>
#include <numeric>

#include "array_rows.h"
#include "kernels.h"
#include "scan.h"

namespace memcore {
namespace {

// Queries that one scan keeps in the cache, and queries whose candidates are kept at a time.
constexpr int64_t kTileQueries = 96;
constexpr int64_t kBatchQueries = 1024;

// The first pass pays when the making of the shadow is shared by enough queries.
constexpr int64_t kFewQueries = 3;

// The keys of one segment and the queries that look at them.
class Segment {
 public:
  Segment(Queries& queries, const KeysView& keys, int64_t begin, int64_t n,
          const SearchOptions& options, Interrupt& interrupt, int64_t width, float* scores,
          int64_t* ids)
      : queries_(queries),
        rows_(keys, begin, n, options.scale, options.bias),
        options_(options),
        interrupt_(interrupt),
        width_(width),
        scores_(scores),
        ids_(ids) {}

  // `asked`: the numbers of the queries. May use the pool unless is_parallel says that the caller
  // already does.
  void run(const std::vector<int64_t>& asked, bool is_parallel) {
    is_parallel_ = is_parallel;
    std::vector<int64_t> plain, bounded;
    for (const int64_t q : asked) (uses_first_pass(q, asked.size()) ? bounded : plain).push_back(q);
    if (!plain.empty()) run_exact(plain);
    for (size_t begin = 0; begin < bounded.size(); begin += kBatchQueries) {
      const size_t end = std::min(bounded.size(), begin + kBatchQueries);
      run_first_pass({bounded.begin() + begin, bounded.begin() + end});
    }
  }

 private:
  bool uses_first_pass(int64_t q, int64_t n_asked) const {
    if (options_.first_pass == FirstPass::kOff || rows_.dim() > kMaxScanDim) return false;
    const int64_t k = options_.k[q];
    if (k == 0 || !queries_.has_bounds(q)) return false;
    if (options_.first_pass == FirstPass::kOn) return true;
    return n_asked >= kFewQueries && rows_.dim() >= 16 && rows_.n_rows() >= 256 &&
           k <= rows_.n_rows() / 8;
  }

  void each(int64_t n, const std::function<void(int64_t)>& task) {
    if (is_parallel_ || n == 1) {
      for (int64_t i = 0; i < n; ++i) task(i);
    } else {
      parallel_for(n, task);
    }
  }

  // The allowed rows of blocks first … first + n - 1 for query q.
  void fill_allowed(int64_t q, int64_t first, int64_t n, uint16_t* out) const {
    const uint8_t* at = options_.mask.data + q * options_.mask.query_stride;
    for (int64_t b = 0; b < n; ++b) {
      uint32_t mask = 0;
      const int64_t begin = (first + b) * kBlockRows;
      const int64_t end = std::min(rows_.n_rows(), begin + kBlockRows);
      for (int64_t r = begin; r < end; ++r) {
        mask |= uint32_t{at[(rows_.begin() + r) * options_.mask.row_stride] != 0} << (r - begin);
      }
      out[b] = static_cast<uint16_t>(mask);
    }
  }
  bool is_masked() const { return options_.mask.data != nullptr; }

  void write(int64_t q, Best& best) { best.write(scores_ + q * width_, ids_ + q * width_, width_); }

  // The float32 scan: parts of the rows, all queries over each. Parts are merged query by query.
  void run_exact(const std::vector<int64_t>& asked) {
    constexpr int64_t kPartRows = 4096, kPolledRows = 256;
    const int64_t n_queries = static_cast<int64_t>(asked.size());
    const int64_t n_tiles = (n_queries + 15) / 16;
    const int64_t wanted = is_parallel_ ? 1 : (n_threads() + n_tiles - 1) / n_tiles;
    const int64_t n_parts = std::clamp<int64_t>(rows_.n_rows() / kPartRows, 1, wanted);
    const int64_t part_rows =
        ((rows_.n_rows() + n_parts - 1) / n_parts + kPolledRows - 1) / kPolledRows * kPolledRows;
    std::vector<Best> best(n_queries * n_parts);
    each(n_tiles * n_parts, [&](int64_t task) {
      const int64_t tile = task / n_parts, part = task % n_parts;
      const int64_t first = tile * 16, last = std::min(n_queries, first + 16);
      for (int64_t i = first; i < last; ++i) best[i * n_parts + part].reset(options_.k[asked[i]]);
      uint16_t allowed[kPolledRows / kBlockRows];
      const int64_t end = std::min(rows_.n_rows(), (part + 1) * part_rows);
      for (int64_t r = part * part_rows; r < end; r += kPolledRows) {
        const int64_t stop = std::min(end, r + kPolledRows);
        for (int64_t i = first; i < last; ++i) {
          if (options_.k[asked[i]] == 0) continue;
          if (is_masked())
            fill_allowed(asked[i], r / kBlockRows, (stop - r + kBlockRows - 1) / kBlockRows,
                         allowed);
          offer_range(queries_, asked[i], rows_, r, stop, is_masked() ? allowed : nullptr,
                      options_.range, best[i * n_parts + part]);
        }
        interrupt_.poll();
      }
    });
    for (int64_t i = 0; i < n_queries; ++i) {
      Best& all = best[i * n_parts];
      for (int64_t part = 1; part < n_parts; ++part) {
        for (const Hit& hit : best[i * n_parts + part].hits()) all.offer(hit.score, hit.id);
      }
      write(asked[i], all);
    }
  }

  // The int8 scan, a window of blocks at a time: shadow the window, then let every tile of queries
  // look at it.
  void run_first_pass(const std::vector<int64_t>& asked) {
    const int64_t n_queries = static_cast<int64_t>(asked.size());
    const int64_t spread = is_parallel_ ? 1 : n_threads();
    const int64_t tile = std::clamp<int64_t>((n_queries + spread - 1) / spread, 1, kTileQueries);
    const int64_t n_tiles = (n_queries + tile - 1) / tile;
    const int64_t window = std::min(rows_.n_blocks(), rows_.window_blocks());
    std::vector<Collector> collectors(n_queries);
    std::vector<Collector*> pointers(n_queries);
    std::vector<uint16_t> allowed(is_masked() ? n_queries * window : 0);
    for (int64_t i = 0; i < n_queries; ++i) {
      pointers[i] = &collectors[i];
      collectors[i].reset(queries_, asked[i], rows_, options_.k[asked[i]], options_.range, nullptr);
    }
    std::vector<Scan> scans(n_tiles);
    const auto tiles = [&](const std::function<void(Scan&, int64_t, int64_t)>& look) {
      each(n_tiles, [&](int64_t t) {
        const int64_t first = t * tile, n = std::min(n_queries - first, tile);
        scans[t].begin(queries_, pointers.data() + first, n, rows_.is_weighted());
        look(scans[t], first, n);
      });
    };

    rows_.open_window(std::max(window, Scan::kDenseBlocks));
    if (rows_.n_blocks() > 2 * Scan::kDenseBlocks && !is_masked()) seed(tiles);
    for (int64_t first = 0; first < rows_.n_blocks(); first += window) {
      const int64_t n = std::min(window, rows_.n_blocks() - first);
      rows_.set_window(first);
      each((n + 15) / 16, [&](int64_t task) {
        for (int64_t b = task * 16; b < std::min(n, task * 16 + 16); ++b)
          rows_.shadow(b, first + b);
        interrupt_.poll();
      });
      tiles([&](Scan& scan, int64_t begin, int64_t n_here) {
        if (is_masked()) {
          for (int64_t i = begin; i < begin + n_here; ++i) {
            fill_allowed(asked[i], first, n, allowed.data() + i * window);
            // Collectors count blocks from the start of the segment.
            collectors[i].set_allowed(allowed.data() + i * window, first);
          }
        }
        const bool is_shared = is_masked() && (options_.mask.query_stride == 0 || n_here == 1);
        scan.visit_range(rows_, first, n, is_shared ? allowed.data() + begin * window : nullptr,
                         interrupt_);
      });
    }
    each(n_tiles, [&](int64_t t) {
      for (int64_t i = t * tile; i < std::min(n_queries, (t + 1) * tile); ++i) {
        collectors[i].finish();
        write(asked[i], collectors[i].best());
        interrupt_.poll();
      }
    });
  }

  // A first threshold from blocks spread over all rows, so that their order does not matter.
  template <class Tiles>
  void seed(const Tiles& tiles) {
    constexpr int64_t kSeedBlocks = 32;
    std::vector<int64_t> chosen(kSeedBlocks);
    for (int64_t i = 0; i < kSeedBlocks; ++i)
      chosen[i] = rows_.n_blocks() * (2 * i + 1) / (2 * kSeedBlocks);
    each(kSeedBlocks / 8, [&](int64_t task) {
      for (int64_t i = task * 8; i < task * 8 + 8; ++i) rows_.shadow(i, chosen[i]);
    });
    tiles([&](Scan& scan, int64_t, int64_t n) {
      for (int64_t i = 0; i < kSeedBlocks; i += kScanBlocks) {
        BlockGroup group;
        for (int64_t j = i; j < i + kScanBlocks; ++j)
          group.add(rows_, chosen[j], rows_.window_block(j));
        scan.measure(group, scan.everyone(), n);
      }
      scan.settle(false);
      // There is a scan for every tile of queries, and each is asked once.
      scan.release_bounds();
      interrupt_.poll();
    });
  }

  Queries& queries_;
  ArrayRows rows_;
  const SearchOptions& options_;
  Interrupt& interrupt_;
  const int64_t width_;
  float* const scores_;
  int64_t* const ids_;
  bool is_parallel_ = false;
};

// The rows that candidates name within [begin, end), each once.
std::vector<int64_t> named_rows(const int64_t* candidates, int64_t n, int64_t begin, int64_t end) {
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < n; ++i) {
    if (candidates[i] >= begin && candidates[i] < end) rows.push_back(candidates[i] - begin);
  }
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

void search_candidates(const Queries& queries, const KeysView& keys, const int64_t* offsets,
                       const int64_t* segments, const SearchOptions& options, Interrupt& interrupt,
                       int64_t width, float* scores, int64_t* ids) {
  constexpr int64_t kTask = 16;
  parallel_for((queries.size() + kTask - 1) / kTask, [&](int64_t task) {
    Best best;
    for (int64_t q = task * kTask; q < std::min(queries.size(), (task + 1) * kTask); ++q) {
      const int64_t begin = offsets == nullptr ? 0 : offsets[segments[q]];
      const int64_t end = offsets == nullptr ? keys.n_rows : offsets[segments[q] + 1];
      std::vector<int64_t> rows = named_rows(options.candidates + q * options.n_candidates,
                                             options.n_candidates, begin, end);
      if (options.mask.data != nullptr) {
        const uint8_t* mask = options.mask.data + q * options.mask.query_stride;
        std::erase_if(rows,
                      [&](int64_t r) { return mask[(begin + r) * options.mask.row_stride] == 0; });
      }
      best.reset(options.k[q]);
      const ArrayRows source(keys, begin, end - begin, options.scale, options.bias);
      if (options.k[q] > 0) {
        offer_rows(queries, q, source, rows.data(), static_cast<int64_t>(rows.size()),
                   options.range, best);
      }
      best.write(scores + q * width, ids + q * width, width);
      interrupt.poll();
    }
  });
}

}  // namespace

void search(Queries& queries, const KeysView& keys, const int64_t* offsets, const int64_t* segments,
            const SearchOptions& options, Interrupt& interrupt, int64_t width, float* scores,
            int64_t* ids) {
  const int64_t n_queries = queries.size();
  if (n_queries == 0 || width == 0) return;
  if (options.candidates != nullptr) {
    return search_candidates(queries, keys, offsets, segments, options, interrupt, width, scores,
                             ids);
  }
  if (options.first_pass != FirstPass::kOff && keys.dim <= kMaxScanDim &&
      (n_queries >= kFewQueries || options.first_pass == FirstPass::kOn)) {
    queries.reserve_codes();
    parallel_for((n_queries + kTileQueries - 1) / kTileQueries, [&](int64_t t) {
      for (int64_t q = t * kTileQueries; q < std::min(n_queries, (t + 1) * kTileQueries); ++q)
        queries.quantize(q, n_queries == 1);
    });
  }
  std::vector<int64_t> order(n_queries);
  std::iota(order.begin(), order.end(), 0);
  if (offsets == nullptr) {
    return Segment(queries, keys, 0, keys.n_rows, options, interrupt, width, scores, ids)
        .run(order, false);
  }

  // Queries of one segment together.
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return segments[a] < segments[b]; });
  std::vector<std::vector<int64_t>> groups;
  for (const int64_t q : order) {
    if (groups.empty() || segments[groups.back().front()] != segments[q]) groups.emplace_back();
    groups.back().push_back(q);
  }
  const auto run = [&](int64_t g, bool is_parallel) {
    const int64_t segment = segments[groups[g].front()];
    Segment(queries, keys, offsets[segment], offsets[segment + 1] - offsets[segment], options,
            interrupt, width, scores, ids)
        .run(groups[g], is_parallel);
  };
  const int64_t n_groups = static_cast<int64_t>(groups.size());
  if (n_groups < n_threads()) {
    for (int64_t g = 0; g < n_groups; ++g) run(g, false);
  } else {
    parallel_for(n_groups, [&](int64_t g) { run(g, true); });
  }
}

}  // namespace memcore
