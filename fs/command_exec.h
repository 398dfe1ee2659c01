// CommandExecutor: carries out a command of the grammar and makes the reply's text.
// Errors: as the engine's; a message that says what was refused, why, and what to do. A verify that
// finds damage is EUCLEAN, with the report as its message.
// Thread safety: any thread that serves no requests.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "engine/engine.h"
#include "extents/result.h"
#include "fs/command.h"
#include "fs/status_text.h"

namespace clonefs {

class CommandExecutor {
 public:
  CommandExecutor(Engine& engine, int source, VolumeInfo info)
      : engine_(engine), source_(source), info_(std::move(info)) {}

  // CANCELLED: asked now and then by what waits.
  Result<std::string> execute(Command command, const std::function<bool()>& cancelled);

  Engine& engine() { return engine_; }
  // As it is now.
  VolumeInfo info() const {
    VolumeInfo info = info_;
    info.pool_status = engine_.pool_status();
    info.journal = engine_.journal_statistics();
    info.counts = engine_.counts();
    info.over_io_uring = over_io_uring_;
    return info;
  }
  // When the mount answers.
  void set_over_io_uring(bool over) { over_io_uring_ = over; }

 private:
  Result<std::string> after(const Status& status, const Command& command,
                            const std::vector<std::string>& names);
  static Result<std::string> log_level_of(const Command& command);
  Result<std::string> create(Command& command);
  Result<std::string> show_status(const Command& command);
  Result<std::string> wait(const Command& command, const std::function<bool()>& cancelled);
  Result<std::string> verify(const Command& command, const std::function<bool()>& cancelled);
  Result<std::string> extents(const Command& command);

  Engine& engine_;
  const int source_;
  const VolumeInfo info_;
  std::atomic<bool> over_io_uring_{false};
};

}  // namespace clonefs
