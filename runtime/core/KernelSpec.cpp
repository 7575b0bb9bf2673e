// KernelSpec.cpp - text of what is compiled.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/KernelSpec.h"

#include "Text.h"
#include "hyperjit/core/Error.h"

#include <fmt/format.h>

using namespace hyperjit;

static constexpr std::string_view kGiven = "xuck";
static constexpr std::string_view kWant = "xycpk";

std::string_view hyperjit::name(Role role) {
  return role == Role::Before ? "before" : role == Role::Boundary ? "boundary" : "after";
}
std::string_view hyperjit::name(Direction direction) {
  return direction == Direction::Forward ? "forward" : "backward";
}
std::string_view hyperjit::name(Bucket bucket) { return bucket == Bucket::Small ? "small" : "large"; }

/// The letters of `letters` in the order of `all`, each once.
static std::string ordered(std::string_view letters, std::string_view all) {
  std::string result;
  for (char letter : all)
    if (letters.find(letter) != std::string_view::npos)
      result += letter;
  return result;
}

static void checkLetters(std::string_view what, std::string_view letters, std::string_view allowed,
                         std::string_view all, const KernelSpec &spec) {
  for (char letter : letters)
    if (allowed.find(letter) == std::string_view::npos)
      throw UserError(ErrorId::InvalidSpec, fmt::format("{}={} of '{}': {} takes letters of '{}' for {}", what, letters,
                                                        spec.text(), what, allowed, name(spec.role)));
  if (ordered(letters, all) != letters)
    throw UserError(ErrorId::InvalidSpec,
                    fmt::format("{}={} of '{}': write {}={}", what, letters, spec.text(), what, ordered(letters, all)));
  if (letters.empty())
    throw UserError(
        ErrorId::InvalidSpec,
        fmt::format("'{}' has no letter in {}: a backward without it has nothing to do", spec.text(), what));
}

KernelSpec KernelSpec::beforeForward(SiteSpec before, bool save, Bucket bucket) {
  KernelSpec spec;
  spec.role = Role::Before;
  spec.before = std::move(before);
  spec.save = save;
  spec.bucket = bucket;
  return spec;
}

KernelSpec KernelSpec::boundaryForward(SiteSpec after, SiteSpec before, bool save, Bucket bucket) {
  KernelSpec spec;
  spec.role = Role::Boundary;
  spec.after = std::move(after);
  spec.before = std::move(before);
  spec.save = save;
  spec.bucket = bucket;
  return spec;
}

KernelSpec KernelSpec::afterForward(SiteSpec after, Bucket bucket) {
  KernelSpec spec;
  spec.role = Role::After;
  spec.after = std::move(after);
  spec.bucket = bucket;
  return spec;
}

KernelSpec KernelSpec::backward(std::optional<SiteSpec> after, std::optional<SiteSpec> before, std::string_view given,
                                std::string_view want, Bucket bucket) {
  KernelSpec spec;
  spec.role = after && before ? Role::Boundary : after ? Role::After : Role::Before;
  spec.direction = Direction::Backward;
  spec.after = std::move(after);
  spec.before = std::move(before);
  spec.given = ordered(given, kGiven);
  spec.want = ordered(want, kWant);
  spec.bucket = bucket;
  return spec;
}

KernelSpec KernelSpec::parse(std::string_view whole) {
  auto fail = [&](const std::string &why) -> UserError {
    return UserError(
        ErrorId::InvalidSpec,
        fmt::format("'{}': {}; a kernel is before(SITE), boundary(SITE|SITE) or after(SITE), then "
                    ":forward:save, :forward:infer or :backward:given=xuck:want=xycpk, then :tokens=small|large",
                    whole, why));
  };
  std::string_view text = text::trim(whole);
  size_t open = text.find('('), close = text.find(')');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open)
    throw fail("no part in parentheses");
  KernelSpec spec;
  std::string_view word = text.substr(0, open), inner = text.substr(open + 1, close - open - 1);
  std::vector<std::string_view> sites = text::split(inner, '|');
  if (word == "before")
    spec.role = Role::Before;
  else if (word == "boundary")
    spec.role = Role::Boundary;
  else if (word == "after")
    spec.role = Role::After;
  else
    throw fail(unknownWord("part", word, {"before", "boundary", "after"}));
  if (sites.size() != (spec.role == Role::Boundary ? 2u : 1u))
    throw fail(fmt::format("{} takes {}", word, spec.role == Role::Boundary ? "two sites, SITE|SITE" : "one site"));
  if (spec.role != Role::Before)
    spec.after = SiteSpec::parse(sites.front());
  if (spec.role != Role::After)
    spec.before = SiteSpec::parse(sites.back());

  std::string_view rest = text.substr(close + 1);
  if (!rest.starts_with(':'))
    throw fail("no direction after the part");
  std::vector<std::string_view> pieces = text::split(rest.substr(1), ':');
  size_t next = 0;
  if (pieces[0] == "forward" && pieces.size() > 1) {
    if (pieces[1] != "save" && pieces[1] != "infer")
      throw fail(unknownWord("forward", pieces[1], {"save", "infer"}));
    spec.save = pieces[1] == "save";
    next = 2;
  } else if (pieces[0] == "backward" && pieces.size() > 2 && pieces[1].starts_with("given=") &&
             pieces[2].starts_with("want=")) {
    spec.direction = Direction::Backward;
    spec.given = std::string(pieces[1].substr(6));
    spec.want = std::string(pieces[2].substr(5));
    next = 3;
  } else {
    throw fail("the direction is neither forward:save, forward:infer nor backward:given=...:want=...");
  }
  if (pieces.size() != next + 1 || (pieces[next] != "tokens=small" && pieces[next] != "tokens=large"))
    throw fail("it does not end in :tokens=small or :tokens=large");
  spec.bucket = pieces[next] == "tokens=small" ? Bucket::Small : Bucket::Large;
  spec.validate();
  return spec;
}

std::string KernelSpec::text() const {
  std::string text(name(role));
  text += '(';
  if (after)
    text += after->text();
  if (after && before)
    text += '|';
  if (before)
    text += before->text();
  text += ')';
  if (direction == Direction::Forward)
    text += save ? ":forward:save" : ":forward:infer";
  else
    text += fmt::format(":backward:given={}:want={}", given, want);
  text += ":tokens=";
  text += name(bucket);
  return text;
}

void KernelSpec::validate() const {
  if (after.has_value() != (role != Role::Before) || before.has_value() != (role != Role::After))
    throw UserError(ErrorId::InvalidSpec, fmt::format("a {} kernel has {}", name(role),
                                                      role == Role::Boundary ? "an after site and a before site"
                                                      : role == Role::Before ? "a before site only"
                                                                             : "an after site only"));
  if (after)
    after->validate();
  if (before)
    before->validate();
  if (role == Role::Boundary &&
      (after->n != before->n || after->m != before->m || after->d != before->d || after->stream != before->stream))
    throw UserError(ErrorId::InvalidSpec,
                    fmt::format("the sites of a boundary share their streams: '{}' has n={}, m={}, d={}, dtype={} and "
                                "'{}' has n={}, m={}, d={}, dtype={}",
                                after->recipe, after->n, after->m, after->d, name(after->stream), before->recipe,
                                before->n, before->m, before->d, name(before->stream)));
  if (direction == Direction::Backward) {
    checkLetters("given", given, role == Role::After ? "x" : kGiven, kGiven, *this);
    checkLetters("want", want, role == Role::Before ? "xpk" : role == Role::After ? "xyc" : kWant, kWant, *this);
  }
}
