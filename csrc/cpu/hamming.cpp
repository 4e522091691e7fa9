#include "hamming.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <limits>
#include <vector>

#include "kernels.h"

namespace memcore {
namespace {

// From so many queries on it pays to turn the codes into slices.
constexpr int64_t kManyQueries = 16;
// Queries that share a slice; what they bring stays in the second-level cache.
constexpr int64_t kTaskQueries = 1024;
// Codes between two looks at the limit and at the interrupt.
constexpr int64_t kStepCodes = 4096;
constexpr int64_t kPartCodes = int64_t{1} << 18;

int64_t distance(const uint64_t* a, const uint64_t* b, int64_t n_words) {
  int64_t bits = 0;
  for (int64_t w = 0; w < n_words; ++w) bits += std::popcount(a[w] ^ b[w]);
  return bits;
}

// The k nearest of the codes offered in the order of their ids. Distances are small integers, so
// counting them gives the exact limit at every moment.
class Nearest {
 public:
  void reset(int64_t k, int64_t max_distance, int64_t n_bits) {
    k_ = k;
    farthest_ = std::min(max_distance, n_bits);
    n_within_ = 0;
    counts_.assign(n_bits + 1, 0);
    hits_.clear();
  }

  int64_t k() const { return k_; }

  // What a code's distance may be for it to matter still; -1: nothing does.
  int64_t limit() const { return k_ == 0 ? -1 : n_within_ < k_ ? farthest_ : farthest_ - 1; }

  // The distance of the k-th nearest so far, which bounds it in all parts of the keys.
  int64_t proven() const {
    return n_within_ < k_ ? std::numeric_limits<int64_t>::max() : farthest_;
  }

  void offer(int64_t distance, int64_t id) {
    if (distance > limit()) return;
    hits_.push_back({distance, id});
    ++counts_[distance];
    ++n_within_;
    while (n_within_ - counts_[farthest_] >= k_) n_within_ -= counts_[farthest_--];
    if (static_cast<int64_t>(hits_.size()) >= 2 * k_ + 1024) drop_far();
  }

  // Takes what another part of the keys, with larger ids, has found.
  void take(const Nearest& other) {
    for (const Hit& hit : other.hits_) offer(hit.distance, hit.id);
  }

  void write(float* scores, int64_t* ids, int64_t width) {
    drop_far();
    std::stable_sort(hits_.begin(), hits_.end(),
                     [](const Hit& a, const Hit& b) { return a.distance < b.distance; });
    const int64_t n = std::min<int64_t>(k_, static_cast<int64_t>(hits_.size()));
    for (int64_t i = 0; i < width; ++i) {
      // Whole numbers are negated, which have one zero.
      scores[i] =
          i < n ? static_cast<float>(-hits_[i].distance) : -std::numeric_limits<float>::infinity();
      ids[i] = i < n ? hits_[i].id : -1;
    }
  }

 private:
  struct Hit {
    int64_t distance;
    int64_t id;
  };

  void drop_far() {
    std::erase_if(hits_, [this](const Hit& hit) { return hit.distance > farthest_; });
  }

  int64_t k_ = 0;
  int64_t farthest_ = 0;
  int64_t n_within_ = 0;
  std::vector<int64_t> counts_;
  std::vector<Hit> hits_;
};

struct Job {
  const CodesView& queries;
  const CodesView& keys;
  const MaskView& mask;
  Interrupt& interrupt;

  bool allows(int64_t q, int64_t id) const {
    return mask.data == nullptr || mask.data[q * mask.query_stride + id * mask.row_stride] != 0;
  }
  void offer(int64_t q, int64_t id, Nearest& nearest) const {
    if (!allows(q, id)) return;
    nearest.offer(distance(query(q), key(id), keys.n_words), id);
  }
  const uint64_t* query(int64_t q) const { return queries.data + q * keys.n_words; }
  const uint64_t* key(int64_t id) const { return keys.data + id * keys.n_words; }
};

// One query, keys begin … end - 1. `bound` is shared by the parts of the keys.
void scan_rows(const Job& job, int64_t q, int64_t begin, int64_t end, std::atomic<int64_t>& bound,
               Nearest& nearest) {
  std::vector<int32_t> found(kStepCodes);
  int64_t step = 64;
  for (int64_t at = begin; at < end; at += step, step = std::min(2 * step, kStepCodes)) {
    step = std::min(step, end - at);
    const int64_t limit = std::min(nearest.limit(), bound.load(std::memory_order_relaxed));
    if (limit < 0) break;
    const int64_t n = kernels().hamming.within(job.query(q), job.key(at), step, job.keys.n_words,
                                               limit, found.data());
    for (int64_t i = 0; i < n; ++i) job.offer(q, at + found[i], nearest);
    const int64_t proven = nearest.proven();
    if (proven < bound.load(std::memory_order_relaxed)) {
      bound.store(proven, std::memory_order_relaxed);
    }
    job.interrupt.poll();
  }
}

struct alignas(32) Line {
  uint64_t words[kSliceLanes];
};

// Queries begin … end - 1 against all keys, a slice of them at a time.
class SliceScan {
 public:
  SliceScan(const Job& job, int64_t begin, int64_t end, std::vector<Nearest>& nearest)
      : job_(job),
        begin_(begin),
        nearest_(nearest),
        n_bits_(distance_bits(job.keys.n_words)),
        forms_((end - begin) * 32 * job.keys.n_words),
        queries_(end - begin),
        hits_(end - begin),
        scratch_(96 * job.keys.n_words),
        tables_(slice_words(job.keys.n_words) / kSliceLanes) {
    for (int64_t q = 0; q < end - begin; ++q) {
      uint8_t* forms = forms_.data() + q * 32 * job.keys.n_words;
      queries_[q].forms = forms;
      queries_[q].parity = choose_forms(job.query(begin + q), forms);
    }
  }

  void run() {
    for (int64_t at = 0; at < job_.keys.n; at += kSliceCodes) {
      const int64_t n = std::min(kSliceCodes, job_.keys.n - at);
      kernels().hamming.slice(job_.key(at), n, job_.keys.n_words, scratch_.data()->words,
                              tables_.data()->words);
      if (at == 0) start(n);
      const int64_t n_hits = within(0, static_cast<int64_t>(queries_.size()));
      for (int64_t i = 0; i < n_hits; ++i) offer(hits_[i], at, n);
      job_.interrupt.poll();
    }
  }

 private:
  // Which form of each majority the query takes, as an offset in bytes; returns its last parity.
  uint64_t choose_forms(const uint64_t* query, uint8_t* forms) const {
    const int64_t n_bits = 64 * job_.keys.n_words;
    std::vector<uint8_t> bits(n_bits + n_bits / 2);
    for (int64_t i = 0; i < n_bits; ++i) bits[i] = query[i / 64] >> (i % 64) & 1;
    for (int64_t m = 0; m < n_bits / 2; ++m) {
      const uint8_t a = bits[3 * m], b = bits[3 * m + 1], c = bits[3 * m + 2];
      forms[m] = static_cast<uint8_t>((a | b << 1 | c << 2) * sizeof(Line));
      bits[n_bits + m] = a ^ b ^ c;
    }
    return -uint64_t{bits.back()};
  }

  void set_limit(int64_t q, int64_t limit) {
    const int64_t most = (int64_t{1} << n_bits_) - 1;
    const int64_t start = most - std::clamp<int64_t>(limit, 0, most);
    for (int b = 0; b < n_bits_; ++b) queries_[q].start[b] = -static_cast<uint64_t>(start >> b & 1);
  }

  int64_t within(int64_t first, int64_t n_queries) {
    return kernels().hamming.within_slice(tables_.data()->words, job_.keys.n_words,
                                          queries_.data() + first, n_queries, hits_.data());
  }

  // The first slice of n codes would offer all of them. Where no mask forbids any, the distance of
  // the k-th nearest of these is enough.
  void start(int64_t n) {
    for (int64_t q = 0; q < static_cast<int64_t>(queries_.size()); ++q) {
      int64_t low = 0, high = std::min(nearest_[q].limit(), int64_t{1} << n_bits_);
      while (job_.mask.data == nullptr && low < high) {
        const int64_t middle = (low + high) / 2;
        set_limit(q, middle);
        if (count(q, n) >= nearest_[q].k()) {
          high = middle;
        } else {
          low = middle + 1;
        }
      }
      set_limit(q, high);
    }
  }

  // Codes of the slice within the query's limit.
  int64_t count(int64_t q, int64_t n) {
    int64_t n_codes = 0;
    if (within(q, 1) == 0) return 0;
    for (int64_t lane = 0; lane < kSliceLanes; ++lane) {
      n_codes += std::popcount(hits_[0].codes[lane] & present(lane, n));
    }
    return n_codes;
  }

  static uint64_t present(int64_t lane, int64_t n) {
    const int64_t left = std::clamp<int64_t>(n - 64 * lane, 0, 64);
    return left == 0 ? 0 : ~uint64_t{0} >> (64 - left);
  }

  void offer(const SliceHits& hits, int64_t at, int64_t n) {
    Nearest& nearest = nearest_[hits.query];
    for (int64_t lane = 0; lane < kSliceLanes; ++lane) {
      for (uint64_t left = hits.codes[lane] & present(lane, n); left != 0; left &= left - 1) {
        job_.offer(begin_ + hits.query, at + 64 * lane + std::countr_zero(left), nearest);
      }
    }
    set_limit(hits.query, nearest.limit());
  }

  const Job& job_;
  int64_t begin_;
  std::vector<Nearest>& nearest_;
  int n_bits_;
  std::vector<uint8_t> forms_;
  std::vector<SliceQuery> queries_;
  std::vector<SliceHits> hits_;
  std::vector<Line> scratch_, tables_;
};

}  // namespace

void hamming_search(const CodesView& queries, const CodesView& keys, CountsView k,
                    const MaskView& mask, int64_t max_distance, Interrupt& interrupt, int64_t width,
                    float* scores, int64_t* ids) {
  const Job job{queries, keys, mask, interrupt};
  const int64_t n_bits = 64 * keys.n_words;
  if (queries.n >= kManyQueries && keys.n_words <= kMaxSliceWords && max_distance >= 0) {
    // One task a thread, but for large batches.
    const int64_t n_tasks =
        std::max<int64_t>(n_threads(), (queries.n + kTaskQueries - 1) / kTaskQueries);
    const int64_t each = (queries.n + n_tasks - 1) / n_tasks;
    parallel_for(n_tasks, [&](int64_t task) {
      const int64_t begin = std::min(queries.n, task * each);
      const int64_t end = std::min(queries.n, begin + each);
      if (begin == end) return;
      std::vector<Nearest> nearest(end - begin);
      for (int64_t q = begin; q < end; ++q) nearest[q - begin].reset(k[q], max_distance, n_bits);
      SliceScan(job, begin, end, nearest).run();
      for (int64_t q = begin; q < end; ++q) {
        nearest[q - begin].write(scores + q * width, ids + q * width, width);
      }
    });
    return;
  }
  // Few queries: the keys are cut into parts.
  const int64_t n_parts = std::max<int64_t>(1, (keys.n + kPartCodes - 1) / kPartCodes);
  for (int64_t q = 0; q < queries.n; ++q) {
    std::vector<Nearest> parts(n_parts);
    std::atomic<int64_t> bound{std::numeric_limits<int64_t>::max()};
    parallel_for(n_parts, [&](int64_t part) {
      parts[part].reset(k[q], max_distance, n_bits);
      scan_rows(job, q, part * kPartCodes, std::min(keys.n, (part + 1) * kPartCodes), bound,
                parts[part]);
    });
    for (int64_t part = 1; part < n_parts; ++part) parts[0].take(parts[part]);
    parts[0].write(scores + q * width, ids + q * width, width);
  }
}

}  // namespace memcore
