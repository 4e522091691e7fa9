#include "place_map.h"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

namespace memcore {
namespace {

constexpr int kRunIds = 64;
constexpr int32_t kNone = -1;

constexpr size_t run_at(int64_t id) { return static_cast<size_t>(id / kRunIds); }
constexpr int lane_at(int64_t id) { return static_cast<int>(id % kRunIds); }

}  // namespace

struct PlaceMap::Run {
  Run() { std::fill_n(places, kRunIds, kNone); }

  int32_t n_references = 1;
  int32_t n_ids = 0;
  int32_t places[kRunIds];
};

PlaceMap::~PlaceMap() {
  for (Run* run : runs_) {
    if (run != nullptr && --run->n_references == 0) delete run;
  }
}

void PlaceMap::swap(PlaceMap& other) noexcept {
  runs_.swap(other.runs_);
  std::swap(n_runs_, other.n_runs_);
  std::swap(n_in_runs_, other.n_in_runs_);
  rest_.swap(other.rest_);
}

PlaceMap PlaceMap::clone() const {
  PlaceMap copy;
  if (rest_) copy.rest_ = std::make_unique<IdMap>(*rest_);
  copy.runs_ = runs_;
  for (Run* run : runs_) {
    if (run != nullptr) ++run->n_references;
  }
  copy.n_runs_ = n_runs_;
  copy.n_in_runs_ = n_in_runs_;
  return copy;
}

PlaceMap::Run* PlaceMap::run_of(int64_t id) const {
  const size_t at = run_at(id);
  Run* run = at < runs_.size() ? runs_[at] : nullptr;
  return run != nullptr && run->places[lane_at(id)] != kNone ? run : nullptr;
}

int64_t PlaceMap::find(int64_t id) const {
  if (id < 0) return -1;
  if (const Run* run = run_of(id)) return run->places[lane_at(id)];
  return rest_ ? rest_->find(id) : -1;
}

// Where runs are half empty, or lie far apart, the hash map takes less.
bool PlaceMap::may_start(size_t run) const {
  constexpr int64_t kSpread = 8;
  return static_cast<int64_t>(run) < kSpread * (n_runs_ + 1) &&
         2 * (n_in_runs_ + kRunIds) >= n_runs_ * kRunIds;
}

PlaceMap::Run* PlaceMap::own_run(size_t at) {
  Run*& run = runs_[at];
  if (run->n_references > 1) {
    Run* copy = new Run(*run);
    copy->n_references = 1;
    --run->n_references;
    run = copy;
  }
  return run;
}

void PlaceMap::own(int64_t id) {
  if (run_of(id) != nullptr) {
    own_run(run_at(id));
  } else {
    rest_->own(id);
  }
}

void PlaceMap::insert(int64_t id, int64_t place) {
  if (place > std::numeric_limits<int32_t>::max()) throw std::bad_alloc();
  const size_t at = run_at(id);
  const bool has_run = at < runs_.size() && runs_[at] != nullptr;
  if (!has_run && !may_start(at)) {
    if (!rest_) rest_ = std::make_unique<IdMap>();
    return rest_->insert(id, place);
  }
  if (!has_run) {
    if (at >= runs_.size()) runs_.resize(at + 1, nullptr);
    runs_[at] = new Run;
    ++n_runs_;
  }
  Run* run = own_run(at);
  run->places[lane_at(id)] = static_cast<int32_t>(place);
  ++run->n_ids;
  ++n_in_runs_;
}

void PlaceMap::set(int64_t id, int64_t place) noexcept {
  if (Run* run = run_of(id)) {
    run->places[lane_at(id)] = static_cast<int32_t>(place);
  } else {
    rest_->set(id, place);
  }
}

void PlaceMap::erase(int64_t id) noexcept {
  Run* run = run_of(id);
  if (run == nullptr) return rest_->erase(id);
  run->places[lane_at(id)] = kNone;
  --n_in_runs_;
  if (--run->n_ids > 0) return;
  delete run;
  runs_[run_at(id)] = nullptr;
  --n_runs_;
}

void PlaceMap::tidy() noexcept {
  constexpr int64_t kFewIds = kRunIds / 8;
  if (n_in_runs_ >= n_runs_ * kFewIds) return;
  try {
    PlaceMap tidied;
    tidied.rest_ = rest_ ? std::make_unique<IdMap>(*rest_) : std::make_unique<IdMap>();
    for (size_t at = 0; at < runs_.size(); ++at) {
      for (int lane = 0; runs_[at] != nullptr && lane < kRunIds; ++lane) {
        if (runs_[at]->places[lane] != kNone)
          tidied.rest_->insert(static_cast<int64_t>(at) * kRunIds + lane, runs_[at]->places[lane]);
      }
    }
    swap(tidied);
  } catch (const std::bad_alloc&) {
    return;
  }
}

std::vector<int64_t> PlaceMap::ids() const {
  std::vector<int64_t> ids;
  ids.reserve(n_in_runs_);
  for (size_t at = 0; at < runs_.size(); ++at) {
    for (int lane = 0; runs_[at] != nullptr && lane < kRunIds; ++lane) {
      if (runs_[at]->places[lane] != kNone)
        ids.push_back(static_cast<int64_t>(at) * kRunIds + lane);
    }
  }
  if (!rest_) return ids;
  rest_->list_ids(ids);
  std::sort(ids.begin(), ids.end());
  return ids;
}

int64_t PlaceMap::nbytes() const {
  int64_t n_bytes = static_cast<int64_t>(runs_.capacity() * sizeof(Run*));
  for (const Run* run : runs_) {
    if (run != nullptr) n_bytes += static_cast<int64_t>(sizeof(Run)) / run->n_references;
  }
  if (rest_) n_bytes += static_cast<int64_t>(sizeof(IdMap)) + rest_->nbytes();
  return n_bytes;
}

}  // namespace memcore
