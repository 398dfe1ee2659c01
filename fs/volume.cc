#include "fs/volume.h"

#include "fs/source_node.h"
#include "fs/source_volume.h"

namespace clonefs {

Result<std::unique_ptr<Volume>> Volume::open(Engine& engine, VolumeOptions options) {
  auto source = SourceVolume::open(engine, options);
  if (!source) return source.error();
  return std::unique_ptr<Volume>(new Volume(std::move(*source)));
}

Volume::Volume(std::unique_ptr<SourceVolume> source) : source_(std::move(source)) {}
Volume::~Volume() = default;

bool Volume::uses_handles() const {
  return source_->root()->space()->by_handle();
}
Node* Volume::root() {
  return source_->root();
}
void Volume::set_virtual_entries(VirtualEntries* entries) {
  source_->virtual_entries = entries;
}
Status Volume::attach_mount(const std::string& mountpoint) {
  return source_->attach_mount(mountpoint);
}
void Volume::detach_mount() {
  source_->detach_mount();
}
Status Volume::flush_dirty(const Engine::Wanted& wanted) {
  return source_->flush_dirty(wanted);
}
size_t Volume::cached_nodes() const {
  return source_->nodes.size();
}

}  // namespace clonefs
