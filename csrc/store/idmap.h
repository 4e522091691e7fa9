#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace memcore {

// id -> row of one large bank: an extendible hash table. Leaves are shared by forks and copied when
// one writes, so that a write after a fork costs a leaf, not the map. Fagin et al. 1979,
// "Extendible hashing".
class IdMap {
 public:
  IdMap();
  ~IdMap();
  IdMap(const IdMap& other);
  IdMap& operator=(const IdMap&) = delete;

  // The row of an id, or -1.
  int64_t find(int64_t id) const;

  // Makes the leaf of an id this map's own. May throw std::bad_alloc; the mapping does not change.
  void own(int64_t id);

  // Adds an absent id; its leaf is the map's own afterwards. May throw std::bad_alloc; then nothing
  // has changed.
  void insert(int64_t id, int64_t row);

  // Change a present id whose leaf is the map's own.
  void set(int64_t id, int64_t row) noexcept;
  void erase(int64_t id) noexcept;

  // Adds all ids, in no order.
  void list_ids(std::vector<int64_t>& ids) const;

  // Bytes of the directory and of this map's share of the leaves.
  int64_t nbytes() const;

 private:
  struct Leaf;

  size_t slot(uint64_t hash) const { return depth_ == 0 ? 0 : hash >> (64 - depth_); }
  size_t first_of_next(size_t i) const;
  Leaf* own_leaf(uint64_t hash);
  void split(uint64_t hash);

  std::vector<Leaf*> directory_;
  int depth_ = 0;
};

}  // namespace memcore
