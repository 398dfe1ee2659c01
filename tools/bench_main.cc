// clonefs-bench: the measured loops of tools/bench. Prints one JSON object.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>

#include "tools/bench_io.h"
#include "tools/bench_result.h"
#include "tools/bench_writer.h"

int main(int argc, char** argv) {
  namespace bench = clonefs::bench;
  CLI::App app("The measured loops of tools/bench; prints JSON.");
  app.require_subcommand(1);

  app.add_subcommand("cases", "the names that io takes");

  bench::IoOptions io;
  std::string name;
  auto* io_command = app.add_subcommand("io", "one case in a directory");
  io_command->add_option("case", name)->required();
  io_command->add_option("--dir", io.dir)->required();
  io_command->add_option("--beneath", io.beneath, "the same directory past the mount");
  io_command->add_option("--seconds", io.seconds);
  io_command->add_option("--files", io.files);

  bench::WriterOptions writer;
  auto* write_command = app.add_subcommand("write", "write until stdin says end");
  write_command->add_option("--file", writer.files)->required();
  write_command->add_option("--mode", writer.modes, "buffered, durable")->required();
  write_command->add_option("--pace-us", writer.pace_us);
  write_command->add_option("--hot", writer.hot, "tracks that are written, spread evenly");
  write_command->add_option("--hot-bytes", writer.hot_bytes);
  write_command->add_option("--block", writer.block);
  write_command->add_option("--sequential", writer.sequential);

  CLI11_PARSE(app, argc, argv);
  try {
    nlohmann::json r;
    if (io_command->parsed())
      r = bench::run_io(name, io);
    else if (write_command->parsed())
      r = bench::run_writer(writer, std::cin);
    else
      r = bench::io_cases();
    std::puts(r.dump().c_str());
    return 0;
  } catch (const bench::Impossible& e) {
    std::fprintf(stderr, "clonefs-bench: %s\n", e.why.c_str());
    return 1;
  }
}
