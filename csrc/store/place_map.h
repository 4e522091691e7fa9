#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "idmap.h"

namespace memcore {

// id -> place of the rows of one bank. Ids that lie close, as a bank's own counter gives them, are
// in runs of 64, of four bytes an id; the others in a hash map. Copies share runs until one
// changes.
class PlaceMap {
 public:
  PlaceMap() = default;
  PlaceMap(PlaceMap&& other) noexcept { swap(other); }
  PlaceMap& operator=(PlaceMap&& other) noexcept {
    swap(other);
    return *this;
  }
  ~PlaceMap();
  PlaceMap clone() const;

  // The place of an id, or -1.
  int64_t find(int64_t id) const;

  // Makes what holds a present id this map's own. May throw std::bad_alloc; nothing that is seen
  // changes.
  void own(int64_t id);

  // Adds an absent id, at least 0, which is this map's own afterwards. May throw std::bad_alloc;
  // then nothing that is seen has changed.
  void insert(int64_t id, int64_t place);

  // Change a present id that is this map's own.
  void set(int64_t id, int64_t place) noexcept;
  void erase(int64_t id) noexcept;

  // After many were erased: moves the ids that are left to the hash map, where runs have become
  // nearly empty and there is memory for that.
  void tidy() noexcept;

  // All ids, ascending.
  std::vector<int64_t> ids() const;

  // Bytes of this map, and of its share of what it has in common with others.
  int64_t nbytes() const;

 private:
  struct Run;

  void swap(PlaceMap& other) noexcept;
  // The run of an id, if the id is in one.
  Run* run_of(int64_t id) const;
  bool may_start(size_t run) const;
  Run* own_run(size_t run);

  std::vector<Run*> runs_;  // nullptr where no id is
  int64_t n_runs_ = 0;
  int64_t n_in_runs_ = 0;
  std::unique_ptr<IdMap> rest_;
};

}  // namespace memcore
