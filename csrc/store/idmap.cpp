#include "idmap.h"

#include <limits>
#include <memory>
#include <new>
#include <random>

namespace memcore {
namespace {

// A leaf of 256 entries is 3 KB; it splits at seven eighths.
constexpr int kLeafSlots = 256;
constexpr int kLeafRows = kLeafSlots * 7 / 8;

// Ids come from outside: the seed keeps a chosen set of them from falling into one leaf.
uint64_t seed() {
  static const uint64_t value = [] {
    std::random_device device;
    return uint64_t{device()} << 32 | device();
  }();
  return value;
}

// The finaliser of splitmix64 (Steele et al. 2014), twice around the seed.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}
uint64_t hash_of(int64_t id) { return mix(mix(static_cast<uint64_t>(id)) + seed()); }

}  // namespace

// Open addressing, one slot after the other, from the low bits of the hash. A slot with id -1 is
// empty.
struct IdMap::Leaf {
  // In 12 bytes: the low and the high half of an id, and a row.
  struct Entry {
    uint32_t id_halves[2] = {~0u, ~0u};
    uint32_t row = 0;

    int64_t id() const { return static_cast<int64_t>(uint64_t{id_halves[1]} << 32 | id_halves[0]); }
    bool is_empty() const { return id() == -1; }
  };

  int64_t n_references = 1;
  int depth = 0;
  int n_rows = 0;
  Entry entries[kLeafSlots];

  int find(uint64_t hash, int64_t id) const {
    int i = static_cast<int>(hash % kLeafSlots);
    while (entries[i].id() != id && !entries[i].is_empty()) i = (i + 1) % kLeafSlots;
    return i;
  }

  void insert(uint64_t hash, int64_t id, int64_t row) {
    const uint64_t bits = static_cast<uint64_t>(id);
    entries[find(hash, id)] = {{static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)},
                               static_cast<uint32_t>(row)};
    ++n_rows;
  }

  void erase(int i) {
    // Entries behind the hole move up, so that no search stops short of them.
    for (int next = (i + 1) % kLeafSlots; !entries[next].is_empty();
         next = (next + 1) % kLeafSlots) {
      const int home = static_cast<int>(hash_of(entries[next].id()) % kLeafSlots);
      const int distance_home = (next - home + kLeafSlots) % kLeafSlots;
      const int distance_hole = (next - i + kLeafSlots) % kLeafSlots;
      if (distance_home < distance_hole) continue;
      entries[i] = entries[next];
      i = next;
    }
    entries[i] = {};
    --n_rows;
  }
};

IdMap::IdMap() : directory_(1) { directory_[0] = new Leaf; }

IdMap::IdMap(const IdMap& other) : directory_(other.directory_), depth_(other.depth_) {
  for (size_t i = 0; i < directory_.size(); i += first_of_next(i)) ++directory_[i]->n_references;
}

IdMap::~IdMap() {
  for (size_t i = 0; i < directory_.size();) {
    Leaf* leaf = directory_[i];
    i += first_of_next(i);
    if (--leaf->n_references == 0) delete leaf;
  }
}

// A leaf of depth d stands in 2^(depth of the directory - d) neighbouring places.
size_t IdMap::first_of_next(size_t i) const { return size_t{1} << (depth_ - directory_[i]->depth); }

int64_t IdMap::find(int64_t id) const {
  const uint64_t hash = hash_of(id);
  const Leaf* leaf = directory_[slot(hash)];
  const Leaf::Entry& entry = leaf->entries[leaf->find(hash, id)];
  return entry.id() == id ? int64_t{entry.row} : -1;
}

IdMap::Leaf* IdMap::own_leaf(uint64_t hash) {
  Leaf* leaf = directory_[slot(hash)];
  if (leaf->n_references == 1) return leaf;
  Leaf* copy = new Leaf(*leaf);
  copy->n_references = 1;
  const size_t n = size_t{1} << (depth_ - leaf->depth);
  const size_t first = slot(hash) / n * n;
  for (size_t i = first; i < first + n; ++i) directory_[i] = copy;
  --leaf->n_references;
  return copy;
}

void IdMap::split(uint64_t hash) {
  if (directory_[slot(hash)]->depth == depth_) {
    std::vector<Leaf*> doubled(directory_.size() * 2);
    for (size_t i = 0; i < doubled.size(); ++i) doubled[i] = directory_[i / 2];
    directory_.swap(doubled);
    ++depth_;
  }
  Leaf* old = own_leaf(hash);
  auto low = std::make_unique<Leaf>();
  auto high = std::make_unique<Leaf>();
  low->depth = high->depth = old->depth + 1;
  for (const Leaf::Entry& entry : old->entries) {
    if (entry.is_empty()) continue;
    const uint64_t entry_hash = hash_of(entry.id());
    const bool is_high = entry_hash >> (63 - old->depth) & 1;
    (is_high ? high : low)->insert(entry_hash, entry.id(), entry.row);
  }
  const size_t n = size_t{1} << (depth_ - old->depth);
  const size_t first = slot(hash) / n * n;
  for (size_t i = 0; i < n; ++i) directory_[first + i] = i < n / 2 ? low.get() : high.get();
  low.release();
  high.release();
  delete old;
}

void IdMap::own(int64_t id) { own_leaf(hash_of(id)); }

void IdMap::insert(int64_t id, int64_t row) {
  if (row > std::numeric_limits<uint32_t>::max()) throw std::bad_alloc();
  const uint64_t hash = hash_of(id);
  while (directory_[slot(hash)]->n_rows >= kLeafRows) split(hash);
  own_leaf(hash)->insert(hash, id, row);
}

void IdMap::set(int64_t id, int64_t row) noexcept {
  const uint64_t hash = hash_of(id);
  Leaf* leaf = directory_[slot(hash)];
  leaf->entries[leaf->find(hash, id)].row = static_cast<uint32_t>(row);
}

void IdMap::erase(int64_t id) noexcept {
  const uint64_t hash = hash_of(id);
  Leaf* leaf = directory_[slot(hash)];
  leaf->erase(leaf->find(hash, id));
}

int64_t IdMap::nbytes() const {
  int64_t n_bytes = static_cast<int64_t>(directory_.capacity() * sizeof(Leaf*));
  for (size_t i = 0; i < directory_.size(); i += first_of_next(i)) {
    n_bytes += static_cast<int64_t>(sizeof(Leaf)) / directory_[i]->n_references;
  }
  return n_bytes;
}

}  // namespace memcore
