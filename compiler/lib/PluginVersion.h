// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_PLUGINVERSION_H
#define HYPERJIT_PLUGINVERSION_H

namespace hyperjit {
/// "llvm 22.1.8, sources 0123456789abcdef"
const char *pluginVersion();
} // namespace hyperjit

#endif // HYPERJIT_PLUGINVERSION_H
