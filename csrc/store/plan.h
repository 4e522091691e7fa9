#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "banks.h"
#include "slab.h"

namespace memcore {

// Control plane of a write: which pages a bank gets, which are copied, which rows move. Page tables
// change while the plan is made and are put back if it is dropped before commit; no row is touched
// before commit, and commit cannot fail. Pages let go in a plan keep their rows until it ends, so
// that every copy and move reads what was there before.
class Plan {
 public:
  struct Copy {
    int32_t from;
    int32_t to;
    int32_t n_lanes;
    int32_t n_used;  // lanes of `from`
  };
  struct Move {
    int64_t from;
    int64_t to;
    bool wipes;  // `from` afterwards
  };
  struct FreedPage {
    int32_t page;
    int32_t n_used;
  };
  // Another page at a position of a bank's table.
  struct Edit {
    int32_t bank;
    int32_t old_page;  // -1: the page at this position is new
    int64_t position;
    int32_t old_lanes;
  };

  Plan(Slab& slab, Banks& banks) : slab_(slab), banks_(banks) {}
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Makes the page at a position of the bank's table its own. Returns true if the page was shared:
  // then it is a new one, to which commit copies the first n_lanes lanes, and the others are wiped.
  bool own_page(int32_t bank, int64_t position, int n_lanes);
  // Puts an empty page at the end of the bank's table.
  void append_page(int32_t bank);
  // Lets go of all pages from a position on, when the plan is committed.
  void cut_pages(int32_t bank, int64_t position);

  void move(int64_t from, int64_t to, bool wipes) { moves_.push_back({from, to, wipes}); }
  void wipe(int64_t slot) { wipes_.push_back(slot); }

  // Gives a bank its map from ids to rows, if it needs one for n_rows rows. Returns whether it has
  // one. Many changes are made to a copy, which shares what does not change and is cheap to drop.
  bool need_map(int32_t bank, int64_t n_rows, int64_t n_changes);
  // Changes to that map: a new id, at once; another row or none for an old one, at commit or in the
  // copy.
  void map_id(int32_t bank, int64_t id, int64_t row);
  void remap_id(int32_t bank, int64_t id, int64_t row);
  void unmap_id(int32_t bank, int64_t id) { remap_id(bank, id, -1); }

  // Rows are written before commit: the plan's pages are not wiped if it is dropped.
  void expect_rows() { has_rows_ = true; }

  // Reserves what commit needs. Call it last, before commit.
  void seal();

  const std::vector<Edit>& edits() const { return edits_; }
  const std::vector<Copy>& copies() const { return copies_; }
  const std::vector<Move>& moves() const { return moves_; }
  const std::vector<int64_t>& wipes() const { return wipes_; }

  // After the rows have moved, and before the banks' counts change: cuts the tables and lets go of
  // pages. Returns those that nobody holds now, for the caller to wipe and give back.
  const std::vector<FreedPage>& commit() noexcept;

 private:
  struct Cut {
    int32_t bank;
    int64_t position;
  };
  struct MapChange {
    int32_t bank;
    int64_t id;
    int64_t row;
  };

  struct Draft {
    int32_t bank;
    std::unique_ptr<IdMap> id_map;
  };

  int32_t lanes_in_use(int32_t bank, int64_t position) const;
  // The copy of a bank's map, if it has one; banks come one after the other.
  IdMap* draft_of(int32_t bank) const {
    return drafts_.empty() || drafts_.back().bank != bank ? nullptr : drafts_.back().id_map.get();
  }

  Slab& slab_;
  Banks& banks_;
  std::vector<Edit> edits_;
  std::vector<Cut> cuts_;
  std::vector<Draft> drafts_;
  std::vector<MapChange> mapped_;
  std::vector<MapChange> remapped_;
  std::vector<Copy> copies_;
  std::vector<Move> moves_;
  std::vector<int64_t> wipes_;
  std::vector<FreedPage> freed_;
  bool has_rows_ = false;
  bool committed_ = false;
};

}  // namespace memcore
