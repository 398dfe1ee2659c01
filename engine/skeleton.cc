// The skeleton: the clone's tree in the pool. One mechanism builds it and keeps it up to date until
// the consistency point: names and objects that may be stale are collected, and a pass compares
// them with the source.
//
// A pass over names has three phases, so that whatever moved is never lost on the way:
//   1  entries that are not what the source has now go to the stage (a directory in the pool);
//   2  what is missing is taken from the stage, linked to the object that the session knows, or made;
//   3  what is left on the stage is removed.
// Outside the fence the source changes under a pass; each change marks what it touched when it
// ends, so the next pass sees it. Within the fence one pass is exact.
#include <fcntl.h>

#include <algorithm>
#include <deque>

#include "engine/core.h"
#include "engine/row_rules.h"

namespace clonefs::detail {

namespace {

constexpr const char* kHidden = ".clonefs";
constexpr uint32_t kSayEvery = 100'000;  // objects, while CREATE goes on

Error cannot(const std::string& what, const std::string& path, int e) {
  return Error::from_errno(e, "cannot " + what + " " + path);
}

}  // namespace

Status select_paths(const std::vector<std::string>& paths, PathNode* root) {
  for (const auto& path : paths) {
    const auto names = names_along(path);
    if (!names) return names.error();
    PathNode* node = root;
    for (const auto& name : *names) node = &node->children[name];
    node->whole = true;
  }
  return {};
}

struct Core::SyncPass {
  struct Missing {
    Object* dir;
    std::vector<std::string> names;
  };
  std::deque<Missing> missing;
  std::vector<Object*> objects;  // attributes to be brought up to date
};

void Core::mark_object(Session& s, Object& o) {
  if (o.dirty.exchange(true)) return;
  const std::lock_guard lock(s.dirty_mutex);
  s.dirty_objects.push_back(&o);
  s.precopied.store(false);
}

void Core::mark_name(Session& s, Object& o, const std::string& name) {
  {
    const std::lock_guard lock(s.dirty_mutex);
    auto& names = s.dirty_names[&o];
    if (name.empty()) {
      names.all = true;
      names.names.clear();
    } else if (!names.all) {
      names.names.insert(name);
    }
    s.precopied.store(false);
  }
  mark_object(s, o);
}

void Core::mark_all(const SessionPtr& s) {
  for (auto& o : s->objects) {
    if (o.gone) continue;
    if (o.is_directory())
      mark_name(*s, o, "");
    else
      mark_object(*s, o);
  }
}

Status Core::make_root(const SessionPtr& s) {
  int result = disk_.mkdir(incomplete_dir_.get(), s->name.c_str(), 0700);
  if (result == -EEXIST) {
    // Nobody's: left by a CREATE that could not be taken back.
    if (auto status = remove_tree(incomplete_dir_.get(), s->name); !status) return status;
    result = disk_.mkdir(incomplete_dir_.get(), s->name.c_str(), 0700);
  }
  if (result < 0) return cannot("make the clone's directory in the pool for", s->name, result);
  struct stat st{};
  if (const int e = disk_.stat(source_dir_.get(), "", &st); e < 0)
    return cannot("read", options_.source_name, e);
  Object& root = s->objects.emplace_back();
  root.id = s->next_object_id++;
  root.type = S_IFDIR;
  root.source_id = st.st_ino;
  root.filter = s->root_filter.whole ? nullptr : &s->root_filter;
  if (const int e = FileRef::of(source_space_, source_dir_.get(), &root.source); e < 0)
    return cannot("refer to", options_.source_name, e);
  const Fd made(disk_, disk_.open(incomplete_dir_.get(), s->name.c_str(),
                                  O_PATH | O_DIRECTORY | O_NOFOLLOW));
  if (!made || disk_.stat(made.get(), "", &st) < 0)
    return cannot("open the clone's directory of", s->name, made.get());
  root.pool_ino = st.st_ino;
  if (const int e = FileRef::of(pool_space_, made.get(), &root.clone); e < 0)
    return cannot("refer to the clone's directory of", s->name, e);
  {
    const std::unique_lock lock(s->index_mutex);
    s->by_pool_ino.add(root);
  }
  s->counters.objects.fetch_add(1);
  sources_.attach(s, root);
  row_changed(*s, root);
  mark_name(*s, root, "");
  return {};
}

Status Core::sync_skeleton(const SessionPtr& s, bool* quiet) {
  SyncPass pass;
  std::unordered_map<Object*, DirtyNames> names;
  {
    const std::lock_guard lock(s->dirty_mutex);
    names.swap(s->dirty_names);
    pass.objects.swap(s->dirty_objects);
  }
  for (Object* o : pass.objects) o->dirty.store(false);
  if (auto status = sync_pass(s, pass, names); !status) {
    // All of it is stale still; what is on the stage stays there for the next pass.
    for (const auto& [dir, dirty] : names) {
      if (dirty.all) mark_name(*s, *dir, "");
      for (const auto& name : dirty.names) mark_name(*s, *dir, name);
    }
    for (const auto& missing : pass.missing)
      for (const auto& name : missing.names) mark_name(*s, *missing.dir, name);
    for (Object* o : pass.objects) mark_object(*s, *o);
    return status;
  }
  if (quiet != nullptr) {
    const std::lock_guard lock(s->dirty_mutex);
    *quiet = s->dirty_names.empty() && s->dirty_objects.empty();
  }
  return {};
}

Status Core::sync_pass(const SessionPtr& s, SyncPass& pass,
                       const std::unordered_map<Object*, DirtyNames>& names) {
  for (const auto& [dir, dirty] : names) {
    if (dir->gone) continue;
    if (auto status = sync_names(s, pass, *dir, dirty); !status) return status;
  }
  for (; !pass.missing.empty(); pass.missing.pop_front()) {
    // A deque: what place() adds behind it moves nothing.
    const auto& missing = pass.missing.front();
    Object& dir = *missing.dir;
    if (dir.gone) continue;
    const Fd source = open_source(dir, O_RDONLY | O_DIRECTORY);
    if (!source) {
      if (source.get() == -ESTALE || source.get() == -ENOENT) continue;  // gone since
      return cannot("read the directory", path_of(*s, dir), source.get());
    }
    const Fd clone = open_clone_directory(pass, dir);
    if (!clone) return cannot("open in the pool", path_of(*s, dir), clone.get());
    for (const auto& name : missing.names) {
      if (auto status = place(s, pass, dir, source.get(), clone.get(), name); !status)
        return status;
    }
  }
  if (auto status = clear_stage(*s); !status) return status;

  // Each once, and directories after what is in them: a change of entries moves their times.
  const auto place_of = [](const Object* o) { return std::pair(o->is_directory(), o->id); };
  std::sort(pass.objects.begin(), pass.objects.end(),
            [&](const Object* a, const Object* b) { return place_of(a) < place_of(b); });
  pass.objects.erase(std::unique(pass.objects.begin(), pass.objects.end()), pass.objects.end());
  for (Object* o : pass.objects) {
    if (o->gone) continue;
    if (auto status = sync_object(*s, *o); !status) return status;
  }
  return {};
}

// Phase 1 for one directory.
Status Core::sync_names(const SessionPtr& s, SyncPass& pass, Object& dir,
                        const DirtyNames& dirty) {
  const Fd source = open_source(dir, O_RDONLY | O_DIRECTORY);
  if (!source) {
    // Removed since; its parent's entries tell.
    if (source.get() == -ESTALE || source.get() == -ENOENT) return {};
    return cannot("read the directory", path_of(*s, dir), source.get());
  }
  const Fd clone = open_clone_directory(pass, dir);
  if (clone.get() == -ESTALE) {
    // It was on the stage when the daemon was killed. Its name is missing now.
    drop_object(*s, dir);
    return {};
  }
  if (!clone) return cannot("open in the pool", path_of(*s, dir), clone.get());

  std::set<std::string, std::less<>> names = dirty.names;
  if (dirty.all) {
    // What is there, and what should be: the directory may have had another filter.
    const auto collect = [&](const Disk::Entry& e) {
      names.insert(e.name);
      return true;
    };
    int e = disk_.list(clone.get(), collect);
    if (dir.filter != nullptr) {
      for (const auto& [name, node] : dir.filter->children) names.insert(name);
    } else if (e == 0) {
      e = disk_.list(source.get(), collect);
    }
    if (e < 0) return cannot("list the directory", path_of(*s, dir), e);
  }
  SyncPass::Missing missing{&dir, {}};
  for (const auto& name : names) {
    struct stat there{}, here{};
    const Fd entry(disk_, disk_.open(source.get(), name.c_str(), O_PATH | O_NOFOLLOW));
    if (!entry && entry.get() != -ENOENT)
      return cannot("read", path_of(*s, dir) + "/" + name, entry.get());
    Object* wanted = nullptr;
    bool exists = static_cast<bool>(entry);
    if (exists) {
      if (const int e = disk_.stat(entry.get(), "", &there); e < 0)
        return cannot("read", path_of(*s, dir) + "/" + name, e);
      exists = covers(dir, name, there);
      if (exists) wanted = known(*s, entry.get(), there);
    }
    const Fd have(disk_, disk_.open(clone.get(), name.c_str(), O_PATH | O_NOFOLLOW));
    const int e = have ? disk_.stat(have.get(), "", &here) : have.get();
    if (e < 0 && e != -ENOENT) return cannot("read in the pool", name, e);
    Object* present = e == 0 ? known_in_pool(*s, have.get(), here) : nullptr;
    if (wanted != nullptr && wanted == present) {
      set_filter(*s, dir, name, *wanted);
      continue;
    }
    if (e == 0) {
      const auto place = move_to_stage(clone.get(), name);
      if (!place) return place.error();
      if (!place->empty()) s->stage.push_back(*place);
      if (present != nullptr && present->is_directory()) s->staged_directories[present] = *place;
      mark_for(pass, dir);
    }
    if (exists) missing.names.push_back(name);
  }
  if (!missing.names.empty()) pass.missing.push_back(std::move(missing));
  return {};
}

void Core::put_in(Session& s, Object& dir, Object& o) {
  if (o.parent.exchange(&dir) != &dir) row_changed(s, o);
}

void Core::mark_for(SyncPass& pass, Object& o) {
  pass.objects.push_back(&o);
}

// A directory of the skeleton whose entries are to be changed. Without privilege its mode may be in
// the way: it gets its own again at the end of the pass.
Fd Core::open_clone_directory(SyncPass& pass, Object& dir) {
  Fd clone = open_clone(dir, O_RDONLY | O_DIRECTORY);
  struct stat st{};
  if (clone && disk_.stat(clone.get(), "", &st) == 0 && (st.st_mode & 0700) != 0700 &&
      disk_.chmod(clone.get(), (st.st_mode & 07777) | 0700) == 0)
    mark_for(pass, dir);
  return clone;
}

bool Core::covers(const Object& dir, const std::string& name, const struct stat& st) const {
  if (dir.id == 0 && name == kHidden) return false;
  if (st.st_dev != device_) return false;  // a mount beneath: not part of the volume
  if (dir.filter == nullptr) return true;
  const auto it = dir.filter->children.find(name);
  if (it == dir.filter->children.end()) return false;
  return it->second.whole || S_ISDIR(st.st_mode);
}

void Core::set_filter(Session& s, const Object& dir, const std::string& name, Object& o) {
  if (!o.is_directory()) return;
  const PathNode* filter = nullptr;
  if (dir.filter != nullptr) {
    const auto it = dir.filter->children.find(name);
    if (it != dir.filter->children.end() && !it->second.whole) filter = &it->second;
  }
  if (o.filter == filter) return;
  o.filter = filter;
  mark_name(s, o, "");
}

// The object that the session knows behind FD, if it is the same and not another with its number.
Object* Core::known(Session& s, int fd, const struct stat& st) const {
  const auto same_type = [&](const Object& o) { return o.type == (st.st_mode & S_IFMT); };
  if (sources_.object_of(s, st.st_ino, same_type) == nullptr) return nullptr;
  std::string handle;
  const bool has_handle = disk_.handle_of(fd, &handle) == 0;
  return sources_.object_of(s, st.st_ino, [&](const Object& o) {
    return same_type(o) &&
           (!has_handle || o.source.handle().empty() || o.source.handle() == handle);
  });
}

// The same for an object in the pool: after a power cut its number may be another's.
Object* Core::known_in_pool(Session& s, int fd, const struct stat& st) const {
  Object* o = nullptr;
  {
    const std::shared_lock lock(s.index_mutex);
    o = s.by_pool_ino.find(st.st_ino);
    if (o == nullptr) return nullptr;
  }
  std::string handle;
  if (!o->clone.handle().empty() && disk_.handle_of(fd, &handle) == 0 &&
      handle != o->clone.handle())
    return nullptr;
  return o;
}

// Phase 2 for one name.
Status Core::place(const SessionPtr& s, SyncPass& pass, Object& dir, int source_dir, int clone_dir,
                   const std::string& name) {
  const Fd entry(disk_, disk_.open(source_dir, name.c_str(), O_PATH | O_NOFOLLOW));
  if (!entry) {
    if (entry.get() == -ENOENT) return {};
    return cannot("read", path_of(*s, dir) + "/" + name, entry.get());
  }
  struct stat st{};
  if (const int e = disk_.stat(entry.get(), "", &st); e < 0)
    return cannot("read", path_of(*s, dir) + "/" + name, e);
  if (!covers(dir, name, st)) return {};
  mark_for(pass, dir);
  Object* o = known(*s, entry.get(), st);
  if (o != nullptr && o->is_directory()) {
    const auto it = s->staged_directories.find(o);
    if (it == s->staged_directories.end()) {
      // It moved while this pass ran: the next one finds it on the stage.
      mark_name(*s, dir, name);
      return {};
    }
    if (const int e = disk_.rename(stage_dir_.get(), it->second.c_str(), clone_dir, name.c_str(), 0);
        e < 0)
      return cannot("move in the pool", path_of(*s, dir) + "/" + name, e);
    put_in(*s, dir, *o);
    std::erase(s->stage, it->second);
    s->staged_directories.erase(it);
    set_filter(*s, dir, name, *o);
    mark_for(pass, *o);
    return {};
  }
  if (o != nullptr && o->inherited) {
    // It has another name now: no one place any more.
    disinherit(*s, *o);
    o = nullptr;
  }
  if (o != nullptr) {
    const Fd clone = open_clone(*o, O_PATH);
    const int e = clone ? disk_.link(clone.get(), clone_dir, name.c_str()) : clone.get();
    if (e == 0) {
      put_in(*s, dir, *o);
      mark_for(pass, *o);
      return {};
    }
    if (e != -ENOENT && e != -ESTALE)
      return cannot("link in the pool", path_of(*s, dir) + "/" + name, e);
    drop_object(*s, *o);  // its last name in the pool went before: make it anew
  }
  auto made = make_object(s, entry.get(), st, clone_dir, name);
  if (!made) return made.error();
  if (*made == nullptr) return {};
  put_in(*s, dir, **made);
  mark_for(pass, **made);
  if ((*made)->is_directory()) {
    set_filter(*s, dir, name, **made);
    // All that is in it is missing.
    SyncPass::Missing missing{*made, {}};
    const Fd inner = open_source(**made, O_RDONLY | O_DIRECTORY);
    const int e = !inner ? inner.get() : disk_.list(inner.get(), [&](const Disk::Entry& item) {
      missing.names.push_back(item.name);
      return true;
    });
    if (e < 0 && e != -ENOENT && e != -ESTALE) {
      mark_name(*s, **made, "");
      return cannot("list the directory", path_of(*s, **made), e);
    }
    if (!missing.names.empty()) pass.missing.push_back(std::move(missing));
  }
  return {};
}

Result<Object*> Core::make_object(const SessionPtr& s, int source_fd, const struct stat& st,
                                  int clone_dir, const std::string& name) {
  const mode_t type = st.st_mode & S_IFMT;
  int e = 0;
  bool inherited = false;
  if (S_ISREG(type)) {
    if (Object* p = inheritable(*s, source_fd, st)) {
      const Fd clone = open_clone(*p, O_PATH);
      p->named_twice = true;
      inherited = clone && disk_.link(clone.get(), clone_dir, name.c_str()) == 0;
    }
    if (!inherited) {
      const Fd made(disk_, disk_.open(clone_dir, name.c_str(),
                                      O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
      e = made ? 0 : made.get();
    }
  } else if (S_ISDIR(type)) {
    e = disk_.mkdir(clone_dir, name.c_str(), 0700);
  } else if (S_ISLNK(type)) {
    std::string target;
    const ssize_t n = disk_.readlink(source_fd, &target);
    e = n < 0 ? static_cast<int>(n) : disk_.symlink(target.c_str(), clone_dir, name.c_str());
  } else {
    e = disk_.mknod(clone_dir, name.c_str(), type | 0600, st.st_rdev);
  }
  if (e < 0) return cannot("make in the pool", name, e);
  const Fd made(disk_, disk_.open(clone_dir, name.c_str(), O_PATH | O_NOFOLLOW));
  struct stat there{};
  if (!made) return cannot("open in the pool", name, made.get());
  if (e = disk_.stat(made.get(), "", &there); e < 0) return cannot("read in the pool", name, e);

  if (s->next_object_id == UINT32_MAX)
    return Error{EOVERFLOW, "the session has seen more files than it can number; create it again"};
  Object& o = s->objects.emplace_back();
  o.id = s->next_object_id++;
  o.type = static_cast<uint16_t>(type);
  o.source_id = st.st_ino;
  o.pool_ino = there.st_ino;
  o.inherited = o.named_twice = inherited;
  e = FileRef::of(source_space_, source_fd, &o.source);
  if (e == 0) e = FileRef::of(pool_space_, made.get(), &o.clone);
  if (e < 0) {
    o.gone = true;
    return cannot("refer to", name, e);
  }
  {
    const std::unique_lock lock(s->index_mutex);
    // Of one that is in the pool no more: its number is another's now.
    if (const Object* old = s->by_pool_ino.find(o.pool_ino)) s->by_pool_ino.remove(*old);
    s->by_pool_ino.add(o);
  }
  s->counters.objects.fetch_add(1);
  if (o.is_regular()) s->counters.files.fetch_add(1);
  // From here on each change of it is seen; what it is like is looked at after this.
  sources_.attach(s, o);
  row_changed(*s, o);
  if (s->building && s->next_object_id % kSayEvery == 0)
    events_.add(EventKind::kCreating, s->name,
                "creating " + s->name + ": " + std::to_string(s->next_object_id) + " files so far");
  return &o;
}

// Phase 3.
Status Core::clear_stage(Session& s) {
  auto status = empty_stage(s.stage, [&](const struct stat& st) {
    Object* o = nullptr;
    {
      const std::shared_lock lock(s.index_mutex);
      o = s.by_pool_ino.find(st.st_ino);
    }
    if (o == nullptr) return;
    // What is inherited has a name in the other generation's tree, and may have been put back in its
    // place in this one.
    if (S_ISDIR(st.st_mode) || st.st_nlink == (o->inherited ? 2 : 1))
      drop_object(s, *o);
    else
      mark_object(s, *o);
  });
  if (status) s.staged_directories.clear();
  return status;
}

// Moves DIR/NAME to the stage. Without privilege a directory whose mode forbids its owner to write
// cannot be moved (nor emptied): it gets what is needed. The new name; "": it was not there.
Result<std::string> Core::move_to_stage(int dir, const std::string& name) {
  struct stat st{};
  int e = disk_.stat(dir, name.c_str(), &st);
  if (e == 0 && S_ISDIR(st.st_mode) && (st.st_mode & 0700) != 0700) {
    const Fd fd(disk_, disk_.open(dir, name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW));
    e = fd ? disk_.chmod(fd.get(), (st.st_mode & 07777) | 0700) : fd.get();
  }
  std::string place;
  // What an earlier start left there may have the name.
  do {
    if (e < 0 && e != -EEXIST) break;
    place = std::to_string(stage_counter_.fetch_add(1));
    e = disk_.rename(dir, name.c_str(), stage_dir_.get(), place.c_str(), RENAME_NOREPLACE);
  } while (e == -EEXIST);
  if (e == -ENOENT) return std::string();
  if (e < 0) return cannot("move aside in the pool", name, e);
  return place;
}

// Removes from the stage what PLACES names, and all beneath it: directories found in one are moved to
// the stage themselves, so it takes two descriptors however deep the tree is. REMOVED gets what each
// was just before. After an error PLACES names what is left.
Status Core::empty_stage(std::vector<std::string>& places,
                         const std::function<void(const struct stat&)>& removed) {
  const int stage = stage_dir_.get();
  while (!places.empty()) {
    const size_t at = places.size() - 1;
    const std::string place = places[at];
    struct stat st{};
    int e = disk_.stat(stage, place.c_str(), &st);
    if (e < 0 && e != -ENOENT) return cannot("read in the pool", place, e);
    const bool there = e == 0;
    if (there && S_ISDIR(st.st_mode)) {
      const Fd dir(disk_, disk_.open(stage, place.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
      if (!dir) return cannot("open in the pool", place, dir.get());
      std::vector<std::string> names;
      e = disk_.list(dir.get(), [&](const Disk::Entry& entry) {
        names.push_back(entry.name);
        return true;
      });
      if (e < 0) return cannot("list in the pool", place, e);
      for (const auto& name : names) {
        struct stat inner{};
        e = disk_.stat(dir.get(), name.c_str(), &inner);
        if (e == 0 && S_ISDIR(inner.st_mode)) {
          auto moved = move_to_stage(dir.get(), name);
          if (!moved) return moved.error();
          if (!moved->empty()) places.push_back(std::move(*moved));
          continue;
        }
        if (e == 0) e = disk_.unlink(dir.get(), name.c_str(), 0);
        if (e < 0 && e != -ENOENT) return cannot("remove in the pool", name, e);
        if (e == 0) removed(inner);
      }
    }
    if (there) {
      e = disk_.unlink(stage, place.c_str(), S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
      if (e < 0 && e != -ENOENT) return cannot("remove in the pool", place, e);
      removed(st);
    }
    places.erase(places.begin() + static_cast<std::ptrdiff_t>(at));
  }
  return {};
}

// Removes DIR/NAME and all beneath it: no objects are looked at.
Status Core::remove_tree(int dir, const std::string& name) {
  auto place = move_to_stage(dir, name);
  if (!place) return place.error();
  std::vector<std::string> places;
  if (!place->empty()) places.push_back(std::move(*place));
  return empty_stage(places, [](const struct stat&) {});
}

void Core::drop_object(Session& s, Object& o) {
  o.gone = true;
  detach(s, o);
  {
    const std::unique_lock lock(s.index_mutex);
    s.by_pool_ino.remove(o);
  }
  if (o.column != nullptr) leave_tracks(s, o, 0);
  s.counters.objects.fetch_sub(1);
  if (o.is_regular()) s.counters.files.fetch_sub(1);
  const std::lock_guard lock(s.rows_mutex);
  s.dropped_rows.push_back(o.id);
}

Status Core::sync_object(Session& s, Object& o) {
  const Fd source = open_source(o, O_PATH);
  struct stat st{}, have{};
  int e = source ? disk_.stat(source.get(), "", &st) : source.get();
  if (e == -ESTALE || e == -ENOENT) return {};  // gone: its names tell
  if (e < 0) return cannot("read", path_of(s, o), e);
  if ((st.st_mode & S_IFMT) != o.type) return {};
  if (o.inherited) {
    const bool known = o.column != nullptr;
    if (known && o.pending.load() == 0 && same_time(o.ctime, st.st_ctim) && st.st_nlink == 1 &&
        o.size == static_cast<uint64_t>(st.st_size))
      return {};
    const auto adopted = known ? Result<bool>(false) : adopt(s, o, st);
    if (!adopted) return adopted.error();
    if (!*adopted) disinherit(s, o);
    return {};
  }
  const Fd clone = open_clone(o, O_PATH);
  if (!clone) {
    if (clone.get() == -ESTALE) return {};
    return cannot("open in the pool", path_of(s, o), clone.get());
  }
  e = disk_.stat(clone.get(), "", &have);
  if (e < 0) return cannot("read in the pool", path_of(s, o), e);
  if (o.is_regular()) {
    if (auto status = sync_data_size(s, o, st, static_cast<uint64_t>(have.st_size)); !status)
      return status;
    o.size = static_cast<uint64_t>(st.st_size);
  }
  if (have.st_uid != st.st_uid || have.st_gid != st.st_gid) {
    e = disk_.chown(clone.get(), st.st_uid, st.st_gid);
    if (e < 0) return cannot("give the clone its owner for", path_of(s, o), e);
  }
  if (!S_ISLNK(o.type)) {
    // Always: a change of the owner takes bits away, and an ACL hides behind the mode.
    e = disk_.chmod(clone.get(), st.st_mode & 07777);
    if (e < 0) return cannot("give the clone its mode for", path_of(s, o), e);
  }
  if (auto status = sync_xattrs(o, source.get(), clone.get()); !status)
    return Error{status.error().code,
                 "cannot copy the extended attributes of " + path_of(s, o) + ": " +
                     status.error().message};
  const timespec times[2] = {st.st_atim, st.st_mtim};
  e = disk_.utimes(clone.get(), times);
  if (e < 0) return cannot("give the clone its times for", path_of(s, o), e);
  note_for_checkpoint(s, o);
  o.size = static_cast<uint64_t>(st.st_size);
  o.atime = st.st_atim;
  o.mtime = st.st_mtim;
  o.ctime = st.st_ctim;
  row_changed(s, o);
  return {};
}

Status Core::sync_xattrs(Object& o, int source_fd, int clone_fd) {
  constexpr const char* kCapability = "security.capability";
  const auto unsupported = [](ssize_t e) {
    return e == -EOPNOTSUPP || e == -EPERM || e == -ENOSYS || e == -EACCES;
  };
  std::string theirs, ours, value, have;
  ssize_t n = disk_.list_xattr(source_fd, &theirs);
  if (n < 0 && !unsupported(n)) return Error::from_errno(static_cast<int>(n), "list");
  if (n < 0) theirs.clear();
  n = disk_.list_xattr(clone_fd, &ours);
  if (n < 0 && !unsupported(n)) return Error::from_errno(static_cast<int>(n), "list in the pool");
  if (n < 0) ours.clear();
  const auto contains = [](const std::string& list, std::string_view name) {
    for (size_t at = 0; at < list.size(); at += std::strlen(list.c_str() + at) + 1)
      if (name == list.c_str() + at) return true;
    return false;
  };
  for (size_t at = 0; at < ours.size(); at += std::strlen(ours.c_str() + at) + 1) {
    const char* name = ours.c_str() + at;
    if (contains(theirs, name)) continue;
    const int e = disk_.remove_xattr(clone_fd, name);
    if (e < 0 && e != -ENODATA && !unsupported(e)) return Error::from_errno(e, name);
  }
  o.capability.reset();
  for (size_t at = 0; at < theirs.size(); at += std::strlen(theirs.c_str() + at) + 1) {
    const char* name = theirs.c_str() + at;
    n = disk_.get_xattr(source_fd, name, &value);
    if (n == -ENODATA || unsupported(n)) continue;
    if (n < 0) return Error::from_errno(static_cast<int>(n), name);
    if (std::string_view(name) == kCapability) o.capability = std::make_unique<std::string>(value);
    if (contains(ours, name) && disk_.get_xattr(clone_fd, name, &have) >= 0 && have == value)
      continue;
    const int e = disk_.set_xattr(clone_fd, name, value);
    // Labels that only the kernel or root may set are not the user's data.
    const bool privileged = std::string_view(name).starts_with("security.") ||
                            std::string_view(name).starts_with("trusted.");
    if (e < 0 && !(privileged && unsupported(e)))
      return Error::from_errno(e, std::string(name) + ": the pool's file system does not take it");
  }
  return {};
}

// Size and extents of a regular file.
Status Core::sync_data_size(Session& s, Object& o, const struct stat& st,
                            uint64_t clone_size) {
  const auto size = static_cast<uint64_t>(st.st_size);
  const TrackSize ts = s.track_size;
  Fd clone;
  if (clone_size != size || o.recheck) {
    clone = open_clone(o, O_RDWR);
    if (!clone) return cannot("open in the pool", path_of(s, o), clone.get());
  }
  if (clone_size != size) {
    if (const int e = disk_.truncate(clone.get(), size); e < 0)
      return cannot("set the size in the pool of", path_of(s, o), e);
  }
  const uint64_t had = o.column == nullptr ? 0 : o.column->count;
  const uint64_t old_size = o.size;
  if (size < old_size && had > ts.tracks_in(size)) {
    leave_tracks(s, o, ts.tracks_in(size));
    o.size = size;
    row_changed(s, o);
  }
  // A copy ends where the file ended: what it was then is not what the track is now.
  if (size > old_size && old_size % ts.bytes() != 0) {
    const uint64_t last = ts.track_of(old_size);
    if (s.selected(last))
      change_bits(s, o, {last, 1}, [](TrackBits b) { return !is_pending(b) || is_copying(b); },
                  on_precopy_write);
  }
  const uint64_t from_track = o.column == nullptr ? 0 : o.column->count;
  const uint64_t from = ts.offset_of(from_track);
  if (size <= from && !o.recheck) {
    const std::lock_guard lock(s.object_lock(o));
    if (o.column == nullptr) o.column = std::make_unique<Column>();
    return {};
  }
  const Fd source = open_source(o, O_RDONLY);
  if (!source) {
    if (source.get() == -ESTALE) return {};
    return cannot("read", path_of(s, o), source.get());
  }
  // How far the column must go: to the last data.
  uint64_t end = ts.tracks_in(size);
  if (end - std::min(end, from_track) > 4096) {
    end = from_track;
    if (auto status = each_data(source.get(), from, size, [&](ByteRange r) {
          end = ts.touched(r).end();
        });
        !status)
      return status;
  }
  if (end > kMaxTracks)
    return Error{EFBIG, path_of(s, o) + " has " + std::to_string(end) +
                            " tracks, a member may have " + std::to_string(kMaxTracks) +
                            "; choose a larger --track-size"};
  if (end > from_track || o.column == nullptr) {
    if (auto status = grow_column(s, o, std::max(end, from_track)); !status) return status;
  }
  // The column stands: from here on writes are noted in it. Now the data that is there already.
  const Transition joins = o.recheck ? on_recheck : on_create;
  bool (*which)(TrackBits) = is_done;
  const auto add = [&](ByteRange r) {
    Extent extent = ts.touched(r);
    for (uint64_t t = extent.first; t < extent.end();) {
      if (!s.selected(t)) {
        ++t;
        continue;
      }
      uint64_t u = t + 1;
      while (u < extent.end() && (s.selection.empty() || s.selected(u))) {
        if (s.selection.empty()) {
          u = extent.end();
          break;
        }
        ++u;
      }
      change_bits(s, o, {t, u - t}, which, joins);
      t = u;
    }
  };
  if (auto status = each_data(source.get(), o.recheck ? 0 : from, size, add); !status)
    return status;
  if (o.recheck) {
    // After a restart, a track that is done in the table and has data on either side may be stale,
    // and one that is pending may have been put on the clone side.
    which = [](TrackBits b) { return !is_precopied(b); };
    if (auto status = each_data(clone.get(), 0, size, add); !status) return status;
    // What was not selected is a hole, whatever the clone's user wrote there.
    int e = 0;
    const auto clear = [&](ByteRange r) {
      const Extent extent = ts.touched(r);
      for (uint64_t t = extent.first; t < extent.end() && e == 0; ++t) {
        const uint64_t begin = ts.offset_of(t);
        if (!s.selected(t)) e = clear_range(clone.get(), {begin, std::min(ts.bytes(), size - begin)});
      }
    };
    if (!s.selection.empty()) {
      if (auto status = each_data(clone.get(), 0, size, clear); !status) return status;
    }
    if (e < 0) return cannot("clear in the pool", path_of(s, o), e);
    o.recheck = false;
  }
  return {};
}

Status Core::each_data(int fd, uint64_t from, uint64_t size,
                       const std::function<void(ByteRange)>& fn) {
  uint64_t at = from;
  while (at < size) {
    const int64_t begin = disk_.seek(fd, at, SEEK_DATA);
    if (begin == -ENXIO) return {};
    if (begin < 0) {  // no such call there: all is data
      fn({at, size - at});
      return {};
    }
    if (static_cast<uint64_t>(begin) >= size) return {};
    int64_t end = disk_.seek(fd, static_cast<uint64_t>(begin), SEEK_HOLE);
    if (end == -ENXIO) return {};
    if (end < 0) end = static_cast<int64_t>(size);
    const uint64_t stop = std::min(size, static_cast<uint64_t>(end));
    if (stop > static_cast<uint64_t>(begin))
      fn({static_cast<uint64_t>(begin), stop - static_cast<uint64_t>(begin)});
    at = std::max<uint64_t>(stop, at + 1);
  }
  return {};
}

// A member that outgrows its region gets a new one at the end of the table.
Status Core::grow_column(Session& s, Object& o, uint64_t count) {
  auto column = std::make_unique<Column>();
  column->count = count;
  column->bits.make(count);
  const bool fresh = o.column == nullptr || o.column->capacity == 0;
  if (!fresh && o.column->capacity >= count) {
    column->capacity = o.column->capacity;
    column->base = o.column->base;
  } else {
    column->capacity = fresh ? count : std::min(count + count / 2, std::max(count, kMaxTracks));
    column->base = s.track_file.allot(column->capacity);
  }
  const uint64_t old = o.column == nullptr ? 0 : std::min<uint64_t>(o.column->count, count);
  if (auto status = move_digests(s, o, *column, old); !status) return status;
  {
    const std::lock_guard lock(s.object_lock(o));
    for (uint64_t t = 0; t < old; ++t)
      column->bits[t].store(o.column->at(t), std::memory_order_relaxed);
    o.column = std::move(column);
    note_table(s, o);
  }
  note_for_checkpoint(s, o);
  row_changed(s, o);
  return {};
}

// The digests of the first KEPT tracks go to COLUMN's region; what is behind them has none.
Status Core::move_digests(Session& s, Object& o, const Column& column, uint64_t kept) {
  constexpr uint64_t kAtOnce = 1 << 16;
  int e = 0;
  if (o.column == nullptr || o.column->base == column.base) {
    e = s.digests.forget(column.base + kept, column.count - kept);
  } else {
    std::vector<uint64_t> digests;
    for (uint64_t t = 0; t < kept && e == 0 && s.digests; t += digests.size()) {
      digests.resize(std::min(kAtOnce, kept - t));
      e = s.digests.read(o.column->base + t, digests.data(), digests.size());
      if (e == 0) e = s.digests.write(column.base + t, digests.data(), digests.size());
    }
  }
  if (e < 0) return cannot("write the digests of", path_of(s, o), e);
  return {};
}

// For messages and the status: where the clone's object is now. The kernel knows the place of each
// directory, of another object only while somebody has looked its name up.
std::string Core::path_of(const Session& s, const Object& o) const {
  const auto place = [&](const Object& object) -> std::optional<std::string> {
    const Fd fd = object.clone.open(pool_space_, O_PATH);
    std::string target;
    if (!fd || disk_.path_of(fd.get(), &target) < 0) return std::nullopt;
    for (const char* top : {"/incomplete/", "/clones/"}) {
      const std::string prefix = pool_name_ + top + s.name;
      if (target == prefix) return ".";
      if (target.starts_with(prefix + "/")) return target.substr(prefix.size() + 1);
    }
    return std::nullopt;
  };
  if (auto path = place(o)) return *path;
  if (const Object* parent = o.parent) {
    const Fd dir = open_clone(*parent, O_RDONLY | O_DIRECTORY);
    const auto path = place(*parent);
    std::string name;
    if (dir && path) {
      disk_.list(dir.get(), [&](const Disk::Entry& entry) {
        if (entry.ino == o.pool_ino) name = entry.name;
        return name.empty();
      });
    }
    if (!name.empty()) return *path == "." ? name : *path + "/" + name;
  }
  return "inode " + std::to_string(o.source_id);
}

}  // namespace clonefs::detail
