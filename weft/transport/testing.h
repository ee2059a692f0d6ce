// What tests of transports share: messages of one part, from and into plain bytes.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "weft/transport/run_threads.h"
#include "weft/transport/thread_transport.h"

namespace weft {

using Bytes = std::vector<std::byte>;

inline Bytes bytes_from(int first, int count) {
  Bytes bytes(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) bytes[static_cast<size_t>(i)] = static_cast<std::byte>(first + i);
  return bytes;
}

inline Region region(Bytes& bytes) {
  const int64_t size = static_cast<int64_t>(bytes.size());
  return {bytes.data(), 1, size, size};
}

inline OutgoingPart outgoing(Bytes& bytes, Lending lending = Lending::none,
                             std::shared_ptr<const void> owner = nullptr) {
  return {.regions = {region(bytes)},
          .bytes = static_cast<int64_t>(bytes.size()),
          .label = 7,
          .lending = lending,
          .owner = std::move(owner)};
}
inline IncomingPart incoming(Bytes& bytes, bool may_borrow = false) {
  return {.regions = {region(bytes)},
          .bytes = static_cast<int64_t>(bytes.size()),
          .label = 7,
          .may_borrow = may_borrow,
          .owner = nullptr,
          .loan = {}};
}

inline Transfer sends(int peer, OutgoingPart part, int64_t origin = 0) {
  Transfer transfer;
  transfer.origin = origin;
  transfer.send.push_back({peer, {}});
  transfer.send.back().parts.push_back(std::move(part));
  return transfer;
}
inline Transfer receives(int peer, IncomingPart part, int64_t origin = 0) {
  Transfer transfer;
  transfer.origin = origin;
  transfer.receive.push_back({peer, {}});
  transfer.receive.back().parts.push_back(std::move(part));
  return transfer;
}

// The error that running the ranks gives, or "" when all is well.
inline std::string error_of(int ranks, const std::function<void(Endpoint&)>& body) {
  const auto begin = std::chrono::steady_clock::now();
  std::string text;
  try {
    run_threads(ranks, body);
  } catch (const std::exception& error) {
    text = error.what();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  return text;
}

inline bool contains(const std::string& text, const std::string& what) { return text.find(what) != std::string::npos; }

}  // namespace weft
