#include "idmap.h"

#include <limits>
#include <memory>
#include <new>
#include <random>

namespace memcore {
namespace {

// A leaf has up to 256 slots of 8 bytes; it splits when seven eighths of them are taken.
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

// Open addressing, one slot after the other, from a slot that the low bits of the hash choose. A
// row of kEmpty is an empty slot. Slots are added as the leaf fills, a quarter of the most at
// a time. The high halves of ids are kept only where one is not 0.
struct IdMap::Leaf {
  struct Slot {
    uint32_t low;
    uint32_t row;
  };
  static constexpr uint32_t kEmpty = std::numeric_limits<uint32_t>::max();
  static constexpr int kStep = kLeafSlots / 4;

  explicit Leaf(int n) : slots(n, Slot{0, kEmpty}) {}
  Leaf(const Leaf& other)
      : depth(other.depth), n_rows(other.n_rows), slots(other.slots), high(other.high) {}
  Leaf& operator=(const Leaf&) = delete;

  int64_t n_references = 1;
  int depth = 0;
  int n_rows = 0;
  std::vector<Slot> slots;
  std::vector<uint32_t> high;

  int n_slots() const { return static_cast<int>(slots.size()); }
  bool is_empty(int i) const { return slots[i].row == kEmpty; }
  int64_t id(int i) const {
    const uint64_t high_half = high.empty() ? 0 : high[i];
    return static_cast<int64_t>(high_half << 32 | slots[i].low);
  }
  int home(uint64_t hash) const {
    return static_cast<int>((hash & 0xffffffff) * slots.size() >> 32);
  }
  int after(int i) const { return i + 1 == n_slots() ? 0 : i + 1; }

  // The slot of an id, or the empty one where it would be.
  int find(uint64_t hash, int64_t id_wanted) const {
    int i = home(hash);
    while (!is_empty(i) && id(i) != id_wanted) i = after(i);
    return i;
  }

  // May throw std::bad_alloc; then nothing has changed.
  void insert(uint64_t hash, int64_t id_new, uint32_t row) {
    const uint64_t bits = static_cast<uint64_t>(id_new);
    const uint32_t high_half = static_cast<uint32_t>(bits >> 32);
    if (high_half != 0 && high.empty()) high.resize(slots.size());
    if (n_rows >= n_slots() * 7 / 8) grow();
    const int i = find(hash, id_new);
    slots[i] = {static_cast<uint32_t>(bits), row};
    if (!high.empty()) high[i] = high_half;
    ++n_rows;
  }

  void grow() {
    Leaf larger(n_slots() + kStep);
    if (!high.empty()) larger.high.resize(larger.slots.size());
    for (int i = 0; i < n_slots(); ++i) {
      if (is_empty(i)) continue;
      int to = larger.home(hash_of(id(i)));
      while (!larger.is_empty(to)) to = larger.after(to);
      larger.slots[to] = slots[i];
      if (!high.empty()) larger.high[to] = high[i];
    }
    slots.swap(larger.slots);
    high.swap(larger.high);
  }

  void move(int from, int to) {
    slots[to] = slots[from];
    if (!high.empty()) high[to] = high[from];
  }

  void erase(int i) {
    // Entries behind the hole move up, so that no search stops short of them.
    for (int next = after(i); !is_empty(next); next = after(next)) {
      const int n = n_slots(), start = home(hash_of(id(next)));
      if ((next - start + n) % n < (next - i + n) % n) continue;
      move(next, i);
      i = next;
    }
    slots[i].row = kEmpty;
    --n_rows;
  }

  int64_t nbytes() const {
    return static_cast<int64_t>(sizeof(Leaf) + slots.capacity() * sizeof(Slot) +
                                high.capacity() * sizeof(uint32_t));
  }
};

IdMap::IdMap() : directory_(1) { directory_[0] = new Leaf(Leaf::kStep); }

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
  const int i = leaf->find(hash, id);
  return leaf->is_empty(i) ? -1 : int64_t{leaf->slots[i].row};
}

IdMap::Leaf* IdMap::own_leaf(uint64_t hash) {
  Leaf* leaf = directory_[slot(hash)];
  if (leaf->n_references == 1) return leaf;
  Leaf* copy = new Leaf(*leaf);
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
  auto low = std::make_unique<Leaf>(kLeafSlots / 2);
  auto high = std::make_unique<Leaf>(kLeafSlots / 2);
  low->depth = high->depth = old->depth + 1;
  for (int i = 0; i < old->n_slots(); ++i) {
    if (old->is_empty(i)) continue;
    const uint64_t entry_hash = hash_of(old->id(i));
    const bool is_high = entry_hash >> (63 - old->depth) & 1;
    (is_high ? high : low)->insert(entry_hash, old->id(i), old->slots[i].row);
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
  if (row >= Leaf::kEmpty) throw std::bad_alloc();
  const uint64_t hash = hash_of(id);
  while (directory_[slot(hash)]->n_rows >= kLeafRows) split(hash);
  own_leaf(hash)->insert(hash, id, static_cast<uint32_t>(row));
}

void IdMap::set(int64_t id, int64_t row) noexcept {
  const uint64_t hash = hash_of(id);
  Leaf* leaf = directory_[slot(hash)];
  leaf->slots[leaf->find(hash, id)].row = static_cast<uint32_t>(row);
}

void IdMap::erase(int64_t id) noexcept {
  const uint64_t hash = hash_of(id);
  Leaf* leaf = directory_[slot(hash)];
  leaf->erase(leaf->find(hash, id));
}

void IdMap::list_ids(std::vector<int64_t>& ids) const {
  for (size_t i = 0; i < directory_.size(); i += first_of_next(i)) {
    const Leaf& leaf = *directory_[i];
    for (int at = 0; at < leaf.n_slots(); ++at) {
      if (!leaf.is_empty(at)) ids.push_back(leaf.id(at));
    }
  }
}

int64_t IdMap::nbytes() const {
  int64_t n_bytes = static_cast<int64_t>(directory_.capacity() * sizeof(Leaf*));
  for (size_t i = 0; i < directory_.size(); i += first_of_next(i)) {
    n_bytes += directory_[i]->nbytes() / directory_[i]->n_references;
  }
  return n_bytes;
}

}  // namespace memcore
