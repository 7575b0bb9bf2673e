//===- ClosedImage.cpp - An object file to a closed image -----------------===//
// SPDX-License-Identifier: Apache-2.0
//
// What is left of a linker when there is one object, one machine and nothing
// outside: lay out the sections that are loaded, resolve what is relative to
// the program counter, refuse the rest by name.
//===----------------------------------------------------------------------===//
#include "hyperjit/Target/CpuImage.h"

#include "llvm/ADT/DenseMap.h"
#include "llvm/BinaryFormat/ELF.h"
#include "llvm/Object/ELFObjectFile.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/MathExtras.h"

using namespace llvm;

namespace hyperjit::cpu {

namespace {

Error refuse(const Twine &message) {
  return createStringError(std::make_error_code(std::errc::not_supported), "closed image: " + message);
}

/// Loaded, and not unwind tables: no exception passes through a kernel.
bool isLoaded(const object::ELFSectionRef &section) {
  Expected<StringRef> name = section.getName();
  if (!name) {
    consumeError(name.takeError());
    return false;
  }
  return (section.getFlags() & ELF::SHF_ALLOC) && section.getSize() != 0 && *name != ".eh_frame";
}

} // namespace

Expected<LinkedImage> linkClosedImage(MemoryBufferRef buffer) {
  auto file = object::ObjectFile::createELFObjectFile(buffer);
  if (!file)
    return file.takeError();
  auto *object = dyn_cast<object::ELF64LEObjectFile>(file->get());
  if (!object || object->getArch() != Triple::x86_64)
    return refuse("not an ELF x86-64 object");

  LinkedImage image;
  DenseMap<uint64_t, uint64_t> placed; // section index -> offset
  uint64_t end = 0;
  for (bool code : {true, false})
    for (object::ELFSectionRef section : object->sections()) {
      if (!isLoaded(section) || section.isText() != code)
        continue;
      Expected<StringRef> name = section.getName();
      if (!name)
        return name.takeError();
      if (section.getFlags() & (ELF::SHF_WRITE | ELF::SHF_TLS))
        return refuse("section " + *name + " is writable");
      if (section.isBSS())
        return refuse("section " + *name + " has no contents");
      Expected<StringRef> contents = section.getContents();
      if (!contents)
        return contents.takeError();
      end = alignTo(end, std::max<uint64_t>(section.getAlignment().value(), 16));
      placed[section.getIndex()] = end;
      image.bytes.resize(end);
      image.bytes.insert(image.bytes.end(), contents->begin(), contents->end());
      end = image.bytes.size();
    }

  auto addressOf = [&](const object::ELFSymbolRef &symbol) -> Expected<uint64_t> {
    Expected<StringRef> name = symbol.getName();
    if (!name)
      return name.takeError();
    Expected<uint32_t> flags = symbol.getFlags();
    if (!flags)
      return flags.takeError();
    if (*flags & object::SymbolRef::SF_Undefined)
      return refuse("undefined symbol '" + *name + "'");
    Expected<object::section_iterator> section = symbol.getSection();
    if (!section)
      return section.takeError();
    if (*section == object->section_end())
      return refuse("symbol '" + *name + "' is absolute or common");
    auto found = placed.find((*section)->getIndex());
    if (found == placed.end())
      return refuse("symbol '" + *name + "' lies in a section that is not loaded");
    Expected<uint64_t> value = symbol.getValue();
    if (!value)
      return value.takeError();
    return found->second + *value;
  };

  for (object::ELFSectionRef section : object->sections()) {
    Expected<object::section_iterator> relocated = section.getRelocatedSection();
    if (!relocated)
      return relocated.takeError();
    if (*relocated == object->section_end())
      continue;
    auto base = placed.find((*relocated)->getIndex());
    if (base == placed.end())
      continue;
    for (object::ELFRelocationRef relocation : section.relocations()) {
      SmallString<32> type;
      relocation.getTypeName(type);
      auto symbol = relocation.getSymbol();
      if (symbol == object->symbol_end())
        return refuse("relocation " + type + " without symbol");
      Expected<StringRef> name = symbol->getName();
      if (!name)
        return name.takeError();
      Expected<uint64_t> target = addressOf(object::ELFSymbolRef(*symbol));
      if (!target)
        return target.takeError();
      Expected<int64_t> addend = relocation.getAddend();
      if (!addend)
        return addend.takeError();
      uint64_t place = base->second + relocation.getOffset();
      auto relative = static_cast<int64_t>(*target + *addend - place);
      switch (relocation.getType()) {
      case ELF::R_X86_64_PC32:
      case ELF::R_X86_64_PLT32:
        if (!isInt<32>(relative))
          return refuse("relocation " + type + " against '" + *name + "' is out of range");
        support::endian::write32le(image.bytes.data() + place, static_cast<uint32_t>(relative));
        break;
      case ELF::R_X86_64_PC64:
        support::endian::write64le(image.bytes.data() + place, static_cast<uint64_t>(relative));
        break;
      default:
        return refuse("relocation " + type + " against '" + *name + "' is not relative to the program counter");
      }
    }
  }

  for (object::ELFSymbolRef symbol : object->symbols()) {
    if (symbol.getELFType() != ELF::STT_FUNC || symbol.getBinding() != ELF::STB_GLOBAL)
      continue;
    Expected<uint64_t> address = addressOf(symbol);
    if (!address)
      return address.takeError();
    Expected<StringRef> name = symbol.getName();
    if (!name)
      return name.takeError();
    image.functions.emplace_back(name->str(), *address);
  }
  return image;
}

} // namespace hyperjit::cpu
