#include "search_pages.h"

#include <algorithm>
#include <numeric>
#include <shared_mutex>
#include <tuple>

#include "check.h"
#include "family.h"
#include "float_env.h"

namespace memcore {
namespace {

// Work that one task takes from the pool, in blocks looked at.
constexpr int64_t kTaskBlocks = 4096;

// Queries that look together at no more blocks than this have 16 bits too: the time that their
// products take is less than what fewer rows to score save.
constexpr int64_t kWideBlocks = 8;

// Queries order[begin … end) of one family, and the blocks of the largest of their banks.
struct Job {
  int64_t begin, end, n_blocks;
  int64_t size() const { return end - begin; }
  bool is_large() const { return n_blocks > Scan::kDenseBlocks; }
};

class PageSearch {
 public:
  PageSearch(const Pages& pages, const Int64View& handles, Queries& queries,
             const PageSearchOptions& options, Interrupt& interrupt, int64_t width, float* scores,
             int64_t* ids)
      : pages_(pages),
        handles_(handles),
        queries_(queries),
        options_(options),
        interrupt_(interrupt),
        width_(width),
        scores_(scores),
        ids_(ids),
        banks_(queries.size()),
        order_(queries.size()) {}

  void run() {
    const int64_t n = queries_.size();
    const bool is_one_bank = handles_.stride == 0;
    for (int64_t q = 0; q < n; ++q) {
      banks_[q] = is_one_bank && q > 0 ? banks_[0] : pages_.view(handles_[q], "search", q);
    }
    std::iota(order_.begin(), order_.end(), 0);
    if (options_.candidates != nullptr) return run_candidates();
    const auto key = [&](int64_t q) {
      return std::tuple(banks_[q].family, handles_[q],
                        options_.where_index == nullptr ? 0 : options_.where_index[q]);
    };
    const auto is_before = [&](int64_t a, int64_t b) { return key(a) < key(b); };
    if (!std::is_sorted(order_.begin(), order_.end(), is_before)) {
      std::stable_sort(order_.begin(), order_.end(), is_before);
    }
    make_jobs();
    has_first_pass_ = options_.first_pass != FirstPass::kOff && pages_.slab().dim() <= kMaxScanDim;
    if (has_first_pass_) queries_.reserve_codes();
    if (jobs_.size() == 1 && jobs_[0].is_large() && n_threads() > 1) return run_in_parts(jobs_[0]);
    make_tasks();
    parallel_for(static_cast<int64_t>(tasks_.size()) - 1,
                 [this](int64_t t) { run_jobs(tasks_[t], tasks_[t + 1]); });
  }

 private:
  void make_jobs() {
    const int64_t n = queries_.size();
    for (int64_t begin = 0, end; begin < n; begin = end) {
      int64_t n_rows = 0;
      for (end = begin; end < n && banks_[order_[end]].family == banks_[order_[begin]].family;
           ++end) {
        n_rows = std::max(n_rows, banks_[order_[end]].n_rows);
      }
      const Job family{begin, end, (n_rows + kBlockRows - 1) / kBlockRows};
      const int64_t most =
          family.is_large() ? FamilySearch::kLargeQueries : FamilySearch::kDenseQueries;
      int64_t n_jobs = (family.size() + most - 1) / most;
      // A single family should keep all threads busy.
      if (family.size() == n && n_jobs > 1)
        n_jobs = (n_jobs + n_threads() - 1) / n_threads() * n_threads();
      if (family.size() == n && family.size() >= 8 * n_threads())
        n_jobs = std::max<int64_t>(n_jobs, n_threads());
      for (int64_t i = 0; i < n_jobs; ++i) {
        const Job job{begin + family.size() * i / n_jobs, begin + family.size() * (i + 1) / n_jobs,
                      family.n_blocks};
        if (job.size() > 0) jobs_.push_back(job);
      }
    }
  }

  void make_tasks() {
    int64_t n_blocks = kTaskBlocks;
    for (size_t j = 0; j < jobs_.size(); ++j) {
      if (n_blocks >= kTaskBlocks) {
        tasks_.push_back(static_cast<int64_t>(j));
        n_blocks = 0;
      }
      n_blocks += jobs_[j].size() * std::max<int64_t>(jobs_[j].n_blocks, 1);
    }
    tasks_.push_back(static_cast<int64_t>(jobs_.size()));
  }

  void quantize(const Job& job) {
    if (!has_first_pass_) return;
    const bool is_wide = job.size() == 1 || job.n_blocks <= kWideBlocks;
    for (int64_t i = job.begin; i < job.end; ++i) queries_.quantize(order_[i], is_wide);
  }

  // One family after the other; the rows of each are scored while those of the next are looked for.
  void run_jobs(int64_t begin, int64_t end) {
    thread_local FamilySearch searches[2];
    thread_local std::vector<const uint8_t*> upcoming;
    FamilySearch* before = nullptr;
    int64_t n_fresh = begin;
    for (int64_t j = begin; j < end; ++j) {
      FamilySearch& now = searches[j % 2];
      const Job& job = jobs_[j];
      if (has_first_pass_ && n_fresh < std::min(j + 2, end)) n_fresh = refresh(n_fresh, end);
      quantize(job);
      now.begin(pages_, queries_, banks_.data(), order_.data() + job.begin, job.size(), options_);
      upcoming.clear();
      if (j + 1 < end) {
        const int64_t first = jobs_[j + 1].begin;
        const int64_t n = std::min(jobs_[j + 1].size(), FamilySearch::kDenseQueries);
        for (int64_t i = first; i < first + n; ++i)
          prefetch_row(queries_.values(order_[i]), queries_.dim() * int64_t{sizeof(float)});
      }
      if (j + 1 < end && pages_.slab().dim() > 0) {
        const BankView& next = banks_[order_[jobs_[j + 1].begin]];
        const int64_t n_next = std::min(kScanBlocks, (next.n_rows + kBlockRows - 1) / kBlockRows);
        for (int64_t b = 0; b < n_next; ++b) upcoming.push_back(pages_.slab().block(next.pages[b]));
      }
      if (job.is_large()) now.seed();
      now.scan(0, job.n_blocks, upcoming, interrupt_);
      now.prefetch();
      if (before != nullptr) write(*before);
      before = &now;
      interrupt_.poll();
    }
    if (before != nullptr) write(*before);
  }

  // Brings what was written lately up to date in the small banks of some jobs from `begin` on, few
  // enough to be still in the cache when it is their turn. Returns the job after the last of them.
  // Banks of a page or less are scored without it.
  int64_t refresh(int64_t begin, int64_t end) const {
    constexpr int64_t kFreshPages = 32;
    thread_local std::vector<int32_t> pages;
    pages.clear();
    int64_t j = begin;
    for (; j < end && static_cast<int64_t>(pages.size()) < kFreshPages; ++j) {
      const BankView& bank = banks_[order_[jobs_[j].begin]];
      if (!jobs_[j].is_large() && bank.n_rows > kBlockRows) {
        pages.insert(pages.end(), bank.pages,
                     bank.pages + (bank.n_rows + kBlockRows - 1) / kBlockRows);
      }
    }
    pages_.slab().refresh(pages.data(), static_cast<int64_t>(pages.size()));
    return j;
  }

  void write(FamilySearch& search) {
    search.finish();
    for (int64_t i = 0; i < search.size(); ++i) {
      const int64_t q = search.query(i);
      search.best(i).write(scores_ + q * width_, ids_ + q * width_, width_);
    }
  }

  // Few queries at one large bank: each thread takes a part of its blocks.
  void run_in_parts(const Job& job) {
    quantize(job);
    const int64_t n_parts = std::clamp<int64_t>(job.n_blocks / Scan::kDenseBlocks, 1, n_threads());
    std::vector<FamilySearch> parts(n_parts);
    parallel_for(n_parts, [&](int64_t part) {
      FamilySearch& search = parts[part];
      search.begin(pages_, queries_, banks_.data(), order_.data() + job.begin, job.size(),
                   options_);
      search.seed();
      const int64_t n_groups = (job.n_blocks + kScanBlocks - 1) / kScanBlocks;
      search.scan(n_groups * part / n_parts * kScanBlocks,
                  std::min(job.n_blocks, n_groups * (part + 1) / n_parts * kScanBlocks), {},
                  interrupt_);
      search.finish();
    });
    for (int64_t i = 0; i < job.size(); ++i) {
      Best& best = parts[0].best(i);
      for (int64_t part = 1; part < n_parts; ++part) {
        for (const Hit& hit : parts[part].best(i).hits()) best.offer(hit.score, hit.id);
      }
      const int64_t q = parts[0].query(i);
      best.write(scores_ + q * width_, ids_ + q * width_, width_);
    }
  }

  void run_candidates() {
    constexpr int64_t kTaskQueries = 16;
    const int64_t n = queries_.size();
    parallel_for((n + kTaskQueries - 1) / kTaskQueries, [&](int64_t task) {
      Best best;
      std::vector<int64_t> rows;
      for (int64_t q = task * kTaskQueries; q < std::min(n, (task + 1) * kTaskQueries); ++q) {
        find_candidates(q, rows);
        best.reset(options_.k[q]);
        if (options_.k[q] > 0) {
          const BankRows source(pages_, banks_[q], options_.weights);
          offer_rows(queries_, q, source, rows.data(), static_cast<int64_t>(rows.size()),
                     options_.range, best);
        }
        best.write(scores_ + q * width_, ids_ + q * width_, width_);
        interrupt_.poll();
      }
    });
  }

  // The rows that query q names and may get, each once. An id that is not in the bank names no row.
  void find_candidates(int64_t q, std::vector<int64_t>& rows) const {
    rows.clear();
    const int64_t index = options_.where_index == nullptr ? -1 : options_.where_index[q];
    for (int64_t i = 0; i < options_.n_candidates; ++i) {
      const int64_t id = options_.candidates[q * options_.n_candidates + i];
      const int64_t row = id < 0 ? -1 : pages_.find_row(handles_[q], id);
      if (row < 0) continue;
      const int32_t page = banks_[q].pages[row / kPageRows];
      if (index >= 0 &&
          ((*options_.programs)[index].evaluate(pages_.slab(), page) >> row % kPageRows & 1) == 0)
        continue;
      rows.push_back(row);
    }
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  }

  const Pages& pages_;
  const Int64View handles_;
  Queries& queries_;
  const PageSearchOptions& options_;
  Interrupt& interrupt_;
  const int64_t width_;
  float* const scores_;
  int64_t* const ids_;
  std::vector<BankView> banks_;
  std::vector<int64_t> order_;
  std::vector<Job> jobs_;
  bool has_first_pass_ = false;
  // Task t runs jobs tasks_[t] … tasks_[t + 1] - 1.
  std::vector<int64_t> tasks_;
};

}  // namespace

void search_pages(Pages& pages, const Int64View& handles, Queries& queries,
                  const PageSearchOptions& options, Interrupt& interrupt, int64_t width,
                  float* scores, int64_t* ids) {
  const FloatEnv env;
  const std::shared_lock<RwLock> lock(pages.lock());
  PageSearch(pages, handles, queries, options, interrupt, width, scores, ids).run();
}

void score_pages(Pages& pages, const Int64View& handles, const Queries& queries, const int64_t* ids,
                 int64_t n_ids, Interrupt& interrupt, float* scores) {
  const FloatEnv env;
  const std::shared_lock<RwLock> lock(pages.lock());
  std::vector<int64_t> rows(n_ids), at(n_ids);
  std::vector<float> found(n_ids);
  for (int64_t q = 0; q < queries.size(); ++q) {
    const BankRows source(pages, pages.view(handles[q], "score", q), {});
    int64_t n = 0;
    for (int64_t i = 0; i < n_ids; ++i) {
      const int64_t id = ids[q * n_ids + i];
      if (i % kScoreRows == 0) interrupt.poll();
      scores[q * n_ids + i] = -std::numeric_limits<float>::infinity();
      if (id < 0) continue;
      rows[n] = pages.find_row(handles[q], id);
      MEMCORE_CHECK(rows[n] >= 0, kNotFound, "score: id ", id, " (position ", q * n_ids + i,
                    ") is not in its bank, should be one of its rows");
      at[n++] = q * n_ids + i;
    }
    for (int64_t begin = 0; begin < n; begin += kScoreRows) {
      interrupt.poll();
      canonical_scores(queries, q, source, rows.data() + begin, std::min(kScoreRows, n - begin),
                       found.data() + begin);
    }
    for (int64_t i = 0; i < n; ++i) scores[at[i]] = found[i] + 0.0f;
    interrupt.poll();
  }
}

}  // namespace memcore
