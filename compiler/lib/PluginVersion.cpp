// PluginVersion.cpp - which LLVM and which sources the plugin is made of. Apart: it changes with every other file.
// SPDX-License-Identifier: Apache-2.0
#include "PluginVersion.h"

#include "compilerDigest.inc"

#include "llvm/Config/llvm-config.h"

#include <string>

const char *hyperjit::pluginVersion() {
  static const std::string text =
      std::string("llvm " LLVM_VERSION_STRING ", sources ") + std::string(compilerDigestText, 16);
  return text.c_str();
}
