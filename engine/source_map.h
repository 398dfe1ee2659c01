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
#include <optional>
#include <shared_mutex>
#include <unordered_map>
#include <unordered_set>
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
  SourceId id = 0;
  Claims::File claims;
  Claims::File limbo;  // who makes or removes its hidden name claims the whole of this
};

class SourceMap {
 public:
  bool empty() const { return attached_.load(std::memory_order_acquire) == 0; }
  // Whether all that are attached only have their changes noted: nobody waits for that.
  bool only_tracked() const {
    return attached_.load(std::memory_order_acquire) == tracked_.load(std::memory_order_acquire);
  }
  uint64_t attach_epoch() const { return epoch_.load(std::memory_order_acquire); }

  std::optional<Source> find(SourceId id, Attachments* attachments) {
    Shard& shard = shard_of(id);
    {
      const std::shared_lock lock(shard.mutex);
      if (const auto it = shard.lists.find(id); it != shard.lists.end()) {
        *attachments = it->second;
        return source(shard, id);
      }
      if (shard.objects.find(id) == nullptr) return std::nullopt;
    }
    const std::unique_lock lock(shard.mutex);
    auto list = std::make_shared<std::vector<Attachment>>();
    shard.objects.find_if(id, [&](Object& object) {
      list->push_back({object.session->shared_from_this(), &object});
      return false;
    });
    if (list->empty()) return std::nullopt;
    if (shard.lists.size() >= kListsKept) shard.lists.clear();
    *attachments = shard.lists[id] = std::move(list);
    return source(shard, id);
  }

  // The first attached object of SESSION with this number that PASSES; nullptr. (A number is given
  // again when a file is gone, so there may be others.)
  template <class Passes>
  Object* object_of(const Session& session, SourceId id, Passes passes) const {
    const Shard& shard = shards_[index(id)];
    const std::shared_lock lock(shard.mutex);
    return shard.objects.find_if(
        id, [&](const Object& o) { return o.session == &session && !o.gone && passes(o); });
  }

  // SESSION lives until the object is detached.
  void attach(const std::shared_ptr<Session>& session, Object& object) {
    Shard& shard = shard_of(object.source_id);
    const std::unique_lock lock(shard.mutex);
    object.session = session.get();
    shard.objects.add(object);
    shard.lists.erase(object.source_id);
    attached_.fetch_add(1);
    epoch_.fetch_add(1, std::memory_order_acq_rel);
  }

  // From now on only its changes are noted. Returns the source when nobody needs more of it.
  std::optional<Source> only_track(Object& object) {
    Shard& shard = shard_of(object.source_id);
    const std::unique_lock lock(shard.mutex);
    if (!object.only_tracked.exchange(true)) tracked_.fetch_add(1);
    return needed(shard, object.source_id) ? std::nullopt : std::optional(source(shard, object.source_id));
  }

  // Returns the source when nobody needs anything of it any more.
  std::optional<Source> detach(Object& object) {
    Shard& shard = shard_of(object.source_id);
    const std::unique_lock lock(shard.mutex);
    if (!shard.objects.remove(object)) return std::nullopt;
    shard.lists.erase(object.source_id);
    attached_.fetch_sub(1);
    if (object.only_tracked.exchange(false)) tracked_.fetch_sub(1);
    return needed(shard, object.source_id) ? std::nullopt : std::optional(source(shard, object.source_id));
  }

  // Whether somebody is attached who does not only have its changes noted.
  bool needed(SourceId id) const {
    const Shard& shard = shards_[index(id)];
    const std::shared_lock lock(shard.mutex);
    return needed(shard, id);
  }

  // Whether the source's hidden name exists. To be asked and said with the claim on Source::limbo.
  bool in_limbo(SourceId id) const {
    const Shard& shard = shards_[index(id)];
    const std::shared_lock lock(shard.mutex);
    return shard.in_limbo.contains(id);
  }
  void set_in_limbo(SourceId id, bool is) {
    Shard& shard = shard_of(id);
    const std::unique_lock lock(shard.mutex);
    if (is)
      shard.in_limbo.insert(id);
    else
      shard.in_limbo.erase(id);
  }

 private:
  // Lists are made when they are asked for, and some kept: of files that are written again and again.
  static constexpr size_t kListsKept = 64;
  struct Shard {
    mutable std::shared_mutex mutex;
    ObjectIndex<Object, &Object::source_id> objects;
    std::unordered_map<SourceId, Attachments> lists;
    std::unordered_set<SourceId> in_limbo;
    Claims claims, limbo;
  };
  static size_t index(SourceId id) { return (id * 0x9E3779B97F4A7C15u) >> 58; }
  Shard& shard_of(SourceId id) { return shards_[index(id)]; }
  static bool needed(const Shard& shard, SourceId id) {
    return shard.objects.find_if(id, [](const Object& o) { return !o.only_tracked; }) != nullptr;
  }
  static Source source(Shard& shard, SourceId id) {
    return {id, {&shard.claims, id}, {&shard.limbo, id}};
  }

  std::array<Shard, 64> shards_;
  std::atomic<uint64_t> attached_{0}, tracked_{0};
  std::atomic<uint64_t> epoch_{0};
};

}  // namespace clonefs::detail
