// SPDX-License-Identifier: Apache-2.0
#include "Targets.h"

#include "hyperjit/core/Artifact.h"
#include "hyperjit/core/CacheManifest.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/core/KernelSpec.h"
#include "hyperjit/core/Schedule.h"
#include "hyperjit/core/Target.h"
#include "hyperjit/core/TuningTable.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace hyperjit::fuzz {

namespace {

void require(bool good, const char *what) {
  if (good)
    return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

/// Only errors of the given kind may come out.
template <typename Allowed, typename Action> void only(Action action) {
  try {
    action();
  } catch (const Allowed &) {
  }
}

void entry(std::span<const std::byte> bytes) {
  DecodedEntry decoded = decodeEntry(bytes, nullptr);
  require(decoded.artifact.has_value() == (decoded.fault == EntryFault::None),
          "an artifact comes with no fault, and only then");
  require(decoded.artifact || !decoded.reason.empty(), "a fault has a reason");
  if (decoded.artifact) {
    DecodedEntry again = decodeEntry(encodeEntry(*decoded.key, *decoded.artifact), &*decoded.key);
    require(again.fault == EntryFault::None, "what was decoded encodes to a whole entry");
    require(again.artifact->payload == decoded.artifact->payload, "the payload survives");
    require(again.artifact->meta.json() == decoded.artifact->meta.json(), "the meta data survive");
  }
  // The parser behind the checksum, which random bytes do not pass.
  std::string_view text(reinterpret_cast<const char *>(bytes.data()), bytes.size());
  only<InternalError>([&] {
    ArtifactMeta meta = ArtifactMeta::parse(text);
    require(ArtifactMeta::parse(meta.json()).json() == meta.json(), "meta data survive");
    (void)meta.workspaceBytes(1000);
  });
}

void spec(std::string_view text) {
  only<UserError>([&] {
    SiteSpec spec = SiteSpec::parse(text);
    require(SiteSpec::parse(spec.text()) == spec, "a site's text gives the same site");
  });
  only<UserError>([&] {
    KernelSpec spec = KernelSpec::parse(text);
    require(KernelSpec::parse(spec.text()) == spec, "a kernel's text gives the same kernel");
  });
  only<UserError>([&] {
    Schedule schedule = Schedule::parse(text);
    require(Schedule::parse(schedule.text()).text() == schedule.text(), "a schedule's text gives the same schedule");
  });
  only<UserError>([&] {
    Target target = Target::parse(text);
    require(Target::parse(target.text()).text() == target.text(), "a target's text gives the same target");
  });
}

void manifest(std::string_view text) {
  (void)manifestHead(text);
  only<UserError>([&] {
    CacheManifest manifest = CacheManifest::parse(text);
    CacheManifest again = CacheManifest::parse(manifest.text());
    require(again.entries == manifest.entries, "entries survive");
    require(again.head.targets == manifest.head.targets, "targets survive");
    require(again.tuning == manifest.tuning, "tuning results survive");
    for (const ManifestFile &file : manifest.tuning)
      require(file.file.starts_with("tuning/") && file.file.rfind('/') == 6 && file.file[7] != '.',
              "no name leads out of tuning/");
    for (const ManifestEntry &entry : manifest.entries)
      require(entry.file.find("..") == std::string::npos && entry.file[0] != '/', "no name leads out of the root");
  });
}

/// One line of a file of results.
void tuning(std::string_view text) {
  only<UserError>([&] {
    const TuningRecord record = TuningRecord::parse(text);
    require(TuningRecord::parse(record.json()).json() == record.json(), "a record's text gives the same record");
    (void)compacted({record, record});
  });
}

} // namespace

bool parse(std::string_view parser, const uint8_t *bytes, size_t size) {
  std::string_view text(reinterpret_cast<const char *>(bytes), size);
  if (parser == "entry")
    entry({reinterpret_cast<const std::byte *>(bytes), size});
  else if (parser == "spec")
    spec(text);
  else if (parser == "manifest")
    manifest(text);
  else if (parser == "tuning")
    tuning(text);
  else
    return false;
  return true;
}

} // namespace hyperjit::fuzz
