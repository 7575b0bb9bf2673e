// Log.h - what hyperjit says: one sink, stderr by default, level from HYPERJIT_LOG. stdout is never written.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_LOG_H
#define HYPERJIT_CORE_LOG_H

#include "hyperjit/core/Export.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace hyperjit {

enum class LogLevel : uint8_t { Warning, Info, Debug };

/// Called under a lock, one message at a time, without a newline at its end.
using LogSink = void (*)(void *context, LogLevel level, std::string_view message);

/// null restores stderr.
HYPERJIT_EXPORT void setLogSink(LogSink sink, void *context);
/// Overrides HYPERJIT_LOG.
HYPERJIT_EXPORT void setLogLevel(LogLevel level);
HYPERJIT_EXPORT bool logs(LogLevel level);
HYPERJIT_EXPORT void log(LogLevel level, std::string_view message);
/// A warning once a process for each `cause`.
HYPERJIT_EXPORT void warnOnce(std::string_view cause, std::string_view message);

/// Writes HYPERJIT_DUMP/<name> if that variable is set; failures are a warning. `name` holds no '/'.
HYPERJIT_EXPORT void dump(std::string_view name, const void *bytes, size_t size);
/// Whether HYPERJIT_DUMP is set: ask before making what would be dumped.
HYPERJIT_EXPORT bool dumps();

} // namespace hyperjit

#endif // HYPERJIT_CORE_LOG_H
