// Export.h - marks what libhyperjit.so shows. Everything else is hidden by the build's default visibility.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_EXPORT_H
#define HYPERJIT_CORE_EXPORT_H

#define HYPERJIT_EXPORT __attribute__((visibility("default")))

#endif // HYPERJIT_CORE_EXPORT_H
