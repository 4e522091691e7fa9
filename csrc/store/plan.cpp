#include "plan.h"

#include <algorithm>

namespace memcore {
namespace {

// From this many on, taking changes of an id map back would take longer than copying it.
constexpr int64_t kManyChanges = 4096;

// Room for one more item, so that the next push_back cannot fail.
template <typename Item>
void make_room(std::vector<Item>& items) {
  if (items.size() == items.capacity()) items.reserve(std::max<size_t>(16, 2 * items.size()));
}

}  // namespace

bool Plan::own_page(int32_t bank, int64_t position, int n_lanes) {
  int32_t& page = banks_[bank].pages[position];
  if (slab_.n_references(page) == 1) return false;
  make_room(copies_);
  make_room(edits_);
  const int32_t copy = slab_.take();
  const int32_t n_used = lanes_in_use(bank, position);
  copies_.push_back({page, copy, n_lanes, n_used});
  edits_.push_back({bank, page, position, n_used});
  page = copy;
  return true;
}

void Plan::append_page(int32_t bank) {
  PageTable& pages = banks_[bank].pages;
  pages.reserve(pages.size() + 1);
  make_room(edits_);
  pages.push_back(slab_.take());
  edits_.push_back({bank, -1, pages.size() - 1, 0});
}

void Plan::cut_pages(int32_t bank, int64_t position) {
  if (position < banks_[bank].pages.size()) cuts_.push_back({bank, position});
}

bool Plan::need_map(int32_t bank, int64_t n_rows, int64_t n_changes) {
  const Bank& owner = banks_[bank];
  if (owner.is_list || (!owner.id_map && n_rows <= kScanRows)) return false;
  if (owner.id_map && n_changes < kManyChanges) return true;
  drafts_.reserve(drafts_.size() + 1);
  auto id_map = owner.id_map ? std::make_unique<IdMap>(*owner.id_map) : std::make_unique<IdMap>();
  if (!owner.id_map) {
    for (int64_t row = 0; row < owner.n_rows; ++row)
      id_map->insert(slab_.ids(owner.pages[row / kPageRows])[row % kPageRows], row);
  }
  drafts_.push_back({bank, std::move(id_map)});
  return true;
}

void Plan::map_id(int32_t bank, int64_t id, int64_t row) {
  if (IdMap* draft = draft_of(bank)) return draft->insert(id, row);
  mapped_.push_back({bank, id, row});
  try {
    banks_[bank].id_map->insert(id, row);
  } catch (...) {
    mapped_.pop_back();
    throw;
  }
}

void Plan::remap_id(int32_t bank, int64_t id, int64_t row) {
  if (IdMap* draft = draft_of(bank)) {
    draft->own(id);
    if (row < 0) {
      draft->erase(id);
    } else {
      draft->set(id, row);
    }
    return;
  }
  banks_[bank].id_map->own(id);
  remapped_.push_back({bank, id, row});
}

void Plan::seal() {
  int64_t n_freed = static_cast<int64_t>(edits_.size());
  for (const Cut& cut : cuts_) n_freed += banks_[cut.bank].pages.size() - cut.position;
  freed_.reserve(n_freed);
}

const std::vector<Plan::FreedPage>& Plan::commit() noexcept {
  committed_ = true;
  for (const Edit& edit : edits_) {
    if (edit.old_page >= 0 && slab_.release(edit.old_page))
      freed_.push_back({edit.old_page, edit.old_lanes});
  }
  for (const Cut& cut : cuts_) {
    PageTable& pages = banks_[cut.bank].pages;
    for (int64_t position = cut.position; position < pages.size(); ++position) {
      if (slab_.release(pages[position]))
        freed_.push_back({pages[position], lanes_in_use(cut.bank, position)});
    }
    pages.shrink(cut.position);
  }
  for (Draft& draft : drafts_) banks_[draft.bank].id_map.swap(draft.id_map);
  for (const MapChange& change : remapped_) {
    IdMap& id_map = *banks_[change.bank].id_map;
    if (change.row < 0) {
      id_map.erase(change.id);
    } else {
      id_map.set(change.id, change.row);
    }
  }
  return freed_;
}

Plan::~Plan() {
  if (committed_) return;
  for (auto mapped = mapped_.rbegin(); mapped != mapped_.rend(); ++mapped) {
    banks_[mapped->bank].id_map->erase(mapped->id);
  }
  for (auto edit = edits_.rbegin(); edit != edits_.rend(); ++edit) {
    PageTable& pages = banks_[edit->bank].pages;
    slab_.give_back(pages[edit->position], !has_rows_);
    if (edit->old_page < 0) {
      pages.shrink(edit->position);
    } else {
      pages[edit->position] = edit->old_page;
    }
  }
}

int32_t Plan::lanes_in_use(int32_t bank, int64_t position) const {
  return static_cast<int32_t>(std::min(kPageRows, banks_[bank].n_rows - position * kPageRows));
}

}  // namespace memcore
