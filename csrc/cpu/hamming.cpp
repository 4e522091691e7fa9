#include "hamming.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <limits>
#include <vector>

#include "kernels.h"

namespace memcore {
namespace {

// From so many queries on it pays to turn the codes into nibbles.
constexpr int64_t kManyQueries = 16;
// Nibbles that stay in the first-level cache.
constexpr int64_t kTileBytes = 16384;
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

// Byte b of word i of the result is byte i of words[b].
void transpose_bytes(uint64_t* words) {
  const auto exchange = [&](int a, int b, int shift, uint64_t mask) {
    const uint64_t different = ((words[a] >> shift) ^ words[b]) & mask;
    words[a] ^= different << shift;
    words[b] ^= different;
  };
  for (int i = 0; i < 4; ++i) exchange(i, i + 4, 32, 0x00000000ffffffff);
  for (const int i : {0, 1, 4, 5}) exchange(i, i + 2, 16, 0x0000ffff0000ffff);
  for (const int i : {0, 2, 4, 6}) exchange(i, i + 1, 8, 0x00ff00ff00ff00ff);
}

// The nibbles of up to 128 codes, laid out [nibble][128]; what is missing counts as zero.
void slice_group(const uint64_t* codes, int64_t n, int64_t n_words, uint8_t* nibbles) {
  constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0f;
  for (int64_t begin = 0; begin < kNibbleGroup; begin += 8) {
    for (int64_t w = 0; w < n_words; ++w) {
      uint64_t words[8] = {};
      for (int64_t i = 0; i < 8 && begin + i < n; ++i) words[i] = codes[(begin + i) * n_words + w];
      transpose_bytes(words);
      for (int b = 0; b < 8; ++b) {
        uint8_t* to = nibbles + (16 * w + 2 * b) * kNibbleGroup + begin;
        const uint64_t low = words[b] & kLow, high = words[b] >> 4 & kLow;
        __builtin_memcpy(to, &low, 8);
        __builtin_memcpy(to + kNibbleGroup, &high, 8);
      }
    }
  }
}

// tables [nibble][16] = the bits in which each nibble differs from the query's.
void make_nibble_tables(const uint64_t* query, int64_t n_words, uint8_t* tables) {
  for (int64_t j = 0; j < 16 * n_words; ++j) {
    const uint64_t own = query[j / 16] >> (4 * (j % 16)) & 15;
    for (uint64_t e = 0; e < 16; ++e) {
      tables[16 * j + static_cast<int64_t>(e)] = static_cast<uint8_t>(std::popcount(own ^ e));
    }
  }
}

constexpr int64_t kLineBytes = 64;
struct alignas(kLineBytes) Line {
  uint8_t bytes[kLineBytes];
};

// Queries begin … end - 1 against all keys, a tile of nibbles at a time.
void scan_nibbles(const Job& job, int64_t begin, int64_t end, std::vector<Nearest>& nearest) {
  const int64_t n_words = job.keys.n_words, n_nibbles = 16 * n_words;
  const int64_t group_size = n_nibbles * kNibbleGroup;
  const int64_t most_groups = std::max<int64_t>(1, kTileBytes / group_size);
  const int64_t n_queries = end - begin;
  // On whole lines: a third of the loads would straddle two.
  std::vector<Line> table_lines(n_queries * n_nibbles * 16 / kLineBytes);
  std::vector<Line> nibble_lines(most_groups * group_size / kLineBytes);
  uint8_t *tables = table_lines.data()->bytes, *nibbles = nibble_lines.data()->bytes;
  std::vector<uint64_t> masks(2 * 2 * most_groups);
  for (int64_t q = 0; q < n_queries; ++q) {
    make_nibble_tables(job.query(begin + q), n_words, tables + q * n_nibbles * 16);
  }
  int64_t n_groups = 1;
  for (int64_t at = 0; at < job.keys.n; at += n_groups * kNibbleGroup) {
    // Small tiles at first, while the limits fall fast.
    if (at > 0) n_groups = std::min(most_groups, 2 * n_groups);
    const int64_t n_left = job.keys.n - at;
    n_groups = std::min(n_groups, (n_left + kNibbleGroup - 1) / kNibbleGroup);
    for (int64_t g = 0; g < n_groups; ++g) {
      slice_group(job.key(at + g * kNibbleGroup), std::min(kNibbleGroup, n_left - g * kNibbleGroup),
                  n_words, nibbles + g * group_size);
    }
    for (int64_t q = 0; q < n_queries; q += 2) {
      const int64_t pair[2] = {q, std::min(q + 1, n_queries - 1)};
      const uint8_t* table[2];
      uint8_t limits[2];
      for (int i = 0; i < 2; ++i) {
        table[i] = tables + pair[i] * n_nibbles * 16;
        limits[i] =
            static_cast<uint8_t>(std::clamp<int64_t>(nearest[pair[i]].limit(), 0, kByteLimit));
      }
      kernels().hamming.within_nibbles(table, limits, nibbles, n_nibbles, n_groups, masks.data());
      for (int i = 0; i < (q + 1 < n_queries ? 2 : 1); ++i) {
        const uint64_t* of_query = masks.data() + i * 2 * n_groups;
        // Most tiles hold nothing near.
        uint64_t any = 0;
        for (int64_t word = 0; word < 2 * n_groups; ++word) any |= of_query[word];
        for (int64_t word = 0; any != 0 && word < 2 * n_groups; ++word) {
          for (uint64_t left = of_query[word]; left != 0; left &= left - 1) {
            const int64_t id = at + 64 * word + std::countr_zero(left);
            if (id < job.keys.n) job.offer(begin + pair[i], id, nearest[pair[i]]);
          }
        }
      }
    }
    job.interrupt.poll();
  }
}

}  // namespace

void hamming_search(const CodesView& queries, const CodesView& keys, CountsView k,
                    const MaskView& mask, int64_t max_distance, Interrupt& interrupt, int64_t width,
                    float* scores, int64_t* ids) {
  const Job job{queries, keys, mask, interrupt};
  const int64_t n_bits = 64 * keys.n_words;
  if (queries.n >= kManyQueries && keys.n_words <= kMaxNibbleWords && max_distance >= 0) {
    // One task a thread, but for large batches, where more tasks even out.
    const int64_t n_tasks = std::max<int64_t>(n_threads(), (queries.n + 511) / 512);
    const int64_t each = (queries.n + n_tasks - 1) / n_tasks;
    parallel_for(n_tasks, [&](int64_t task) {
      const int64_t begin = std::min(queries.n, task * each);
      const int64_t end = std::min(queries.n, begin + each);
      if (begin == end) return;
      std::vector<Nearest> nearest(end - begin);
      for (int64_t q = begin; q < end; ++q) nearest[q - begin].reset(k[q], max_distance, n_bits);
      scan_nibbles(job, begin, end, nearest);
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
