// ObjectIndex: objects by a number that each of them has, in little more than one pointer an object. Several may have the same number.
// Thread safety: as a plain container.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace clonefs::detail {

// KEY: the member of OBJECT that has the number; it does not change while the object is in here.
template <class Object, uint64_t Object::*Key>
class ObjectIndex {
 public:
  // The first one with this number that PASSES; nullptr.
  template <class Passes>
  Object* find_if(uint64_t key, Passes passes) const {
    if (used_ == 0) return nullptr;
    for (size_t i = place_of(key); slots_[i] != nullptr; i = next(i))
      if (slots_[i]->*Key == key && passes(*slots_[i])) return slots_[i];
    return nullptr;
  }
  Object* find(uint64_t key) const {
    return find_if(key, [](const Object&) { return true; });
  }

  void add(Object& object) {
    if ((used_ + 1) * 4 > slots_.size() * 3) grow();
    put(object);
    ++used_;
  }

  // Whether it was there.
  bool remove(const Object& object) {
    if (used_ == 0) return false;
    size_t i = place_of(object.*Key);
    while (slots_[i] != &object) {
      if (slots_[i] == nullptr) return false;
      i = next(i);
    }
    // What was put further back because this place was taken moves up.
    for (size_t j = next(i); slots_[j] != nullptr; j = next(j)) {
      if (distance(place_of(slots_[j]->*Key), j) < distance(i, j)) continue;
      slots_[i] = slots_[j];
      i = j;
    }
    slots_[i] = nullptr;
    --used_;
    return true;
  }

 private:
  // Mixed well: the keys of one index may have much in common already (SourceMap's shards).
  size_t place_of(uint64_t key) const {
    key = (key ^ key >> 32) * 0xD6E8FEB86659FD93u;
    key = (key ^ key >> 32) * 0xD6E8FEB86659FD93u;
    return (key >> 32) * slots_.size() >> 32;
  }
  size_t next(size_t i) const { return i + 1 == slots_.size() ? 0 : i + 1; }
  size_t distance(size_t from, size_t to) const {
    return to >= from ? to - from : to + slots_.size() - from;
  }
  void put(Object& object) {
    size_t i = place_of(object.*Key);
    while (slots_[i] != nullptr) i = next(i);
    slots_[i] = &object;
  }
  void grow() {
    std::vector<Object*> old(std::max<size_t>(8, slots_.size() + slots_.size() / 4));
    old.swap(slots_);
    for (Object* object : old)
      if (object != nullptr) put(*object);
  }

  std::vector<Object*> slots_;
  size_t used_ = 0;
};

}  // namespace clonefs::detail
