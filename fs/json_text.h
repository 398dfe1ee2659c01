// JSON as clonefs writes it, in one place: every answer is one object that begins with `"schema": 1`
// (docs/JSON.md). Bytes that are no UTF-8 are U+FFFD in the text, and the exact bytes stand beside it in
// base64. Thread safety: no state.
#pragma once

#include <ctime>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "extents/result.h"

namespace clonefs {

using Json = nlohmann::ordered_json;

// {"schema":1}, to be filled.
Json new_answer();
// Over several lines, with a newline at the end.
std::string dump_json(const Json& json);
// On one line: for files of JSON lines.
std::string dump_json_line(const Json& json);

// OBJECT[KEY] is NAME; where that is no UTF-8, OBJECT[KEY + "_base64"] has its bytes.
void put_name(Json* object, const std::string& key, std::string_view name);
// The same for a list; KEY_base64 is a list of all names then.
void put_names(Json* object, const std::string& key, const std::vector<std::string>& names);
// What put_names wrote; empty if there is none.
std::vector<std::string> read_names(const Json& object, const std::string& key);
// RFC 3339, UTC, with nanoseconds; null for 0.
Json time_json(const timespec& time);
// {"schema":1,"error":{"code":"ENOENT","errno":2,"message":...}}
Json error_json(const Error& error);

timespec parse_time(const std::string& text);  // what format_time wrote; 0 for anything else
std::string format_time(const timespec& time);  // "2026-11-23T02:00:00.118000000Z", "" for 0

}  // namespace clonefs
