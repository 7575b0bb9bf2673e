// Device.cpp - memory, a stream and a clock of one device.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/cuda/Device.h"

#include "Driver.h"
#include "hyperjit/core/Error.h"

#include <cstdint>
#include <fmt/format.h>
#include <vector>

using namespace hyperjit;
using namespace hyperjit::cuda;

struct Device::State {
  const Driver &driver = Driver::get();
  int ordinal = 0;
  DeviceHandle handle = 0;
  Context context = nullptr;
  bool current = false;
  StreamHandle stream = nullptr;
  EventHandle begin = nullptr, end = nullptr;
  std::vector<DevicePointer> memory;
  std::vector<ExecutableHandle> executables;

  ~State() {
    for (ExecutableHandle executable : executables)
      driver.executableDestroy(executable);
    for (DevicePointer pointer : memory)
      driver.memoryFree(pointer);
    for (EventHandle event : {begin, end})
      if (event)
        driver.eventDestroy(event);
    if (stream)
      driver.streamDestroy(stream);
    Context ignored;
    if (current)
      driver.contextPop(&ignored);
  }
};

static DevicePointer address(const void *pointer) { return reinterpret_cast<uintptr_t>(pointer); }

Device::Device(int ordinal) : state(std::make_unique<State>()) {
  const Driver &driver = state->driver;
  state->ordinal = ordinal;
  driver.check(driver.deviceGet(&state->handle, ordinal), fmt::format("device {}", ordinal));
  // Retained and kept: kernels that are loaded live in it.
  driver.check(driver.primaryContextRetain(&state->context, state->handle), "retaining a context");
  driver.check(driver.contextPush(state->context), "making a context current");
  state->current = true;
  driver.check(driver.streamCreate(&state->stream, 1 /* non-blocking */), "a stream");
  driver.check(driver.eventCreate(&state->begin, 0), "an event");
  driver.check(driver.eventCreate(&state->end, 0), "an event");
}

Device::~Device() = default;

std::string Device::name() const {
  char text[256] = {};
  state->driver.check(state->driver.deviceGetName(text, sizeof text - 1, state->handle), "the device's name");
  return text;
}

int Device::ordinal() const { return state->ordinal; }
void *Device::stream() const { return state->stream; }

void *Device::allocate(size_t bytes) {
  DevicePointer pointer = 0;
  state->driver.check(state->driver.memoryAllocate(&pointer, bytes ? bytes : 1),
                      fmt::format("{} bytes of device memory", bytes));
  state->memory.push_back(pointer);
  return reinterpret_cast<void *>(uintptr_t(pointer));
}

void Device::upload(void *to, const void *from, size_t bytes) {
  if (bytes)
    state->driver.check(state->driver.copyToDevice(address(to), from, bytes), "copying to the device");
}
void Device::download(void *to, const void *from, size_t bytes) {
  if (bytes)
    state->driver.check(state->driver.copyFromDevice(to, address(from), bytes), "copying from the device");
}
void Device::copy(void *to, const void *from, size_t bytes) {
  state->driver.check(state->driver.copyOnDevice(address(to), address(from), bytes, state->stream),
                      "copying on the device");
}
void Device::fill(void *to, unsigned char value, size_t bytes) {
  state->driver.check(state->driver.fillBytes(address(to), value, bytes, state->stream), "filling memory");
}
void Device::synchronise() {
  state->driver.check(state->driver.streamSynchronize(state->stream), "running on the device");
}

std::function<void()> Device::record(const std::function<void()> &work) {
  const Driver &driver = state->driver;
  GraphHandle graph = nullptr;
  driver.check(driver.beginCapture(state->stream, 1 /* of this thread */), "recording a graph");
  try {
    work();
  } catch (...) {
    driver.endCapture(state->stream, &graph);
    if (graph)
      driver.graphDestroy(graph);
    throw;
  }
  driver.check(driver.endCapture(state->stream, &graph), "recording a graph");
  ExecutableHandle executable = nullptr;
  const Status made = driver.graphInstantiate(&executable, graph, 0);
  driver.graphDestroy(graph);
  driver.check(made, "making a graph");
  state->executables.push_back(executable);
  return [&driver, executable, stream = state->stream] {
    driver.check(driver.graphLaunch(executable, stream), "launching a graph");
  };
}

double Device::milliseconds(const std::function<void()> &work) {
  const Driver &driver = state->driver;
  driver.check(driver.eventRecord(state->begin, state->stream), "an event");
  work();
  driver.check(driver.eventRecord(state->end, state->stream), "an event");
  driver.check(driver.eventSynchronize(state->end), "running on the device");
  float time = 0;
  driver.check(driver.eventElapsed(&time, state->begin, state->end), "an event");
  return double(time);
}
