#include "fs/json_text.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fs/words.h"

namespace clonefs {

namespace {

constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string base64(std::string_view bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t k = 0; k < 3; k++) {
      group = group << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0);
    }
    for (size_t k = 0; k < 4; k++) {
      out += i + k <= bytes.size() ? kDigits[group >> (18 - 6 * k) & 63] : '=';
    }
  }
  return out;
}

std::string from_base64(std::string_view text) {
  std::string out;
  uint32_t group = 0;
  unsigned bits = 0;
  for (const char c : text) {
    const size_t digit = std::string_view(kDigits).find(c);
    if (digit == std::string_view::npos) break;
    group = group << 6 | static_cast<uint32_t>(digit);
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    out += static_cast<char>(group >> bits & 0xff);
  }
  return out;
}

}  // namespace

Json new_answer() {
  Json json;
  json["schema"] = 1;
  return json;
}

std::string dump_json(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string dump_json_line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

void put_name(Json* object, const std::string& key, std::string_view name) {
  (*object)[key] = std::string(name);
  if (!is_utf8(name)) (*object)[key + "_base64"] = base64(name);
}

void put_names(Json* object, const std::string& key, const std::vector<std::string>& names) {
  (*object)[key] = names;
  bool all = true;
  for (const std::string& name : names) all = all && is_utf8(name);
  if (all) return;
  Json& exact = (*object)[key + "_base64"] = Json::array();
  for (const std::string& name : names) exact.push_back(base64(name));
}

std::vector<std::string> read_names(const Json& object, const std::string& key) {
  const auto exact = object.find(key + "_base64");
  const auto plain = object.find(key);
  const auto& list = exact != object.end() ? exact : plain;
  std::vector<std::string> names;
  if (list == object.end() || !list->is_array()) return names;
  for (const Json& name : *list) {
    if (!name.is_string()) continue;
    names.push_back(exact != object.end() ? from_base64(name.get<std::string>())
                                          : name.get<std::string>());
  }
  return names;
}

Json time_json(const timespec& time) {
  if (time.tv_sec == 0 && time.tv_nsec == 0) return nullptr;
  return format_time(time);
}

Json error_json(const Error& error) {
  Json json = new_answer();
  const char* code = ::strerrorname_np(error.code);
  json["error"] = {{"code", code == nullptr ? "EIO" : code},
                   {"errno", error.code},
                   {"message", error.message}};
  return json;
}

timespec parse_time(const std::string& text) {
  timespec time{};
  tm broken{};
  const char* rest = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &broken);
  if (rest == nullptr) return time;
  time.tv_sec = ::timegm(&broken);
  if (*rest == '.') time.tv_nsec = std::strtol(rest + 1, nullptr, 10);
  return time;
}

std::string format_time(const timespec& time) {
  if (time.tv_sec == 0 && time.tv_nsec == 0) return {};
  tm broken{};
  gmtime_r(&time.tv_sec, &broken);
  char date[32];
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &broken);
  char text[48];
  std::snprintf(text, sizeof text, "%s.%09ldZ", date, static_cast<long>(time.tv_nsec));
  return text;
}

}  // namespace clonefs
