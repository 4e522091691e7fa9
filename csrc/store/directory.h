#pragma once

#include <cstdint>
#include <vector>

#include "banks.h"
#include "batch.h"
#include "place_map.h"
#include "rwlock.h"

namespace memcore {

// Banks of rows that lie elsewhere: the ids of each bank, its counter, and one number for each row,
// its place. The operations are those of Pages: each is one pass over vectors of handles, all or
// nothing, and takes the lock itself. Writes may be stopped until they change anything.
class Directory {
 public:
  void create(int64_t n, int64_t* handles);
  void drop(const Int64View& handles);
  void alive(const Int64View& handles, bool* out);

  // ids: nullptr draws them from each bank's counter. places (n,), at least 0.
  void add(const Int64View& handles, const Int64View* ids, int64_t n, const int64_t* places,
           Interrupt& interrupt, int64_t* ids_out);
  // places: nullptr changes nothing, and only says what is wrong.
  void update(const Int64View& handles, const Int64View& ids, int64_t n, const int64_t* places,
              bool skip, Interrupt& interrupt, bool* found);
  void remove(const Int64View& handles, const Int64View& ids, int64_t n, bool skip,
              Interrupt& interrupt, bool* found);
  // out (n,): the place of each row, -1 where there is none.
  void places(const Int64View& handles, const Int64View& ids, int64_t n, const char* op,
              Interrupt& interrupt, int64_t* out);
  void count(const Int64View& handles, int64_t* out);
  std::vector<int64_t> ids(int64_t handle);

  // forks (handles.size, n)
  void fork(const Int64View& handles, int64_t n, int64_t* forks);
  // Makes each bank what its source is, counter included.
  void copy_from(const Int64View& handles, const Int64View& sources);

  int64_t nbytes();

 private:
  struct Copy {
    BankContents contents;
    PlaceMap places;
  };

  Copy copy_of(int32_t bank) const { return {banks_[bank].clone(), maps_[bank].clone()}; }
  void reserve(int64_t n);
  // places (n,) of the rows; throws for the first that is not there unless skip.
  std::vector<int64_t> find(const Batch& batch, const Int64View& ids, bool skip, const char* op,
                            Interrupt& interrupt) const;
  // Makes what holds these rows the banks' own.
  void own(const Batch& batch, const Int64View& ids, const std::vector<int64_t>& places,
           Interrupt& interrupt);

  Banks banks_;
  std::vector<PlaceMap> maps_;  // by the index of the bank
  RwLock lock_;
};

}  // namespace memcore
