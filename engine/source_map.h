// SourceMap: which sessions cover which objects of the volume. Looked at by every change.
//
// Rules:
//  S1  An object is attached before it is looked at for the skeleton. A change that began before
//      the attachment looks again when it ends (attach_epoch), so no change is missed.
//  S2  A list of attachments is immutable; a change keeps the list that it saw.
//  S3  Nobody attached: one relaxed load tells it.
// Thread safety: all members.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

#include "engine/session.h"

namespace clonefs::detail {

struct Attachment {
  std::shared_ptr<Session> session;
  Object* object;
};
using Attachments = std::shared_ptr<const std::vector<Attachment>>;

// One object of the volume that is a member.
struct Source {
  Claims claims;
  std::mutex limbo_mutex;
  bool in_limbo = false;    // the hidden link exists; guarded by limbo_mutex
  Attachments attachments;  // guarded by its shard
};

class SourceMap {
 public:
  bool empty() const { return attached_.load(std::memory_order_acquire) == 0; }
  uint64_t attach_epoch() const { return epoch_.load(std::memory_order_acquire); }

  std::shared_ptr<Source> find(SourceId id, Attachments* attachments) const {
    const Shard& shard = shard_of(id);
    const std::shared_lock lock(shard.mutex);
    const auto it = shard.sources.find(id);
    if (it == shard.sources.end()) return nullptr;
    *attachments = it->second->attachments;
    return it->second;
  }

  void attach(SourceId id, const std::shared_ptr<Session>& session, Object* object) {
    Shard& shard = shard_of(id);
    const std::unique_lock lock(shard.mutex);
    auto& source = shard.sources[id];
    if (source == nullptr) source = std::make_shared<Source>();
    auto list = std::make_shared<std::vector<Attachment>>();
    if (source->attachments != nullptr) *list = *source->attachments;
    list->push_back({session, object});
    source->attachments = std::move(list);
    attached_.fetch_add(1);
    epoch_.fetch_add(1, std::memory_order_acq_rel);
  }

  // Returns the source when nobody is attached to it any more.
  std::shared_ptr<Source> detach(SourceId id, const Object* object) {
    Shard& shard = shard_of(id);
    const std::unique_lock lock(shard.mutex);
    const auto it = shard.sources.find(id);
    if (it == shard.sources.end()) return nullptr;
    auto list = std::make_shared<std::vector<Attachment>>();
    for (const auto& a : *it->second->attachments)
      if (a.object != object) list->push_back(a);
    if (list->size() == it->second->attachments->size()) return nullptr;
    attached_.fetch_sub(1);
    if (!list->empty()) {
      it->second->attachments = std::move(list);
      return nullptr;
    }
    it->second->attachments = std::make_shared<std::vector<Attachment>>();
    auto source = it->second;
    shard.sources.erase(it);
    return source;
  }

 private:
  struct Shard {
    mutable std::shared_mutex mutex;
    std::unordered_map<SourceId, std::shared_ptr<Source>> sources;
  };
  static size_t index(SourceId id) { return (id * 0x9E3779B97F4A7C15u) >> 58; }
  const Shard& shard_of(SourceId id) const { return shards_[index(id)]; }
  Shard& shard_of(SourceId id) { return shards_[index(id)]; }

  std::array<Shard, 64> shards_;
  std::atomic<uint64_t> attached_{0};
  std::atomic<uint64_t> epoch_{0};
};

}  // namespace clonefs::detail
