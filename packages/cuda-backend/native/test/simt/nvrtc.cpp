// NVRTC's functions over the host's compiler: a program becomes a shared object of kernels for the emulator.

#include <nvrtc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "image.h"

struct _nvrtcProgram {
  std::string name, source, log, image;
  std::vector<std::pair<std::string, std::string>> headers;  // name, text
};

namespace {

std::string readAll(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void writeAll(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}
std::string quoted(const std::string& text) {
  std::string result = "'";
  for (char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

/// Of NVRTC's options those that the host's compiler has too.
std::string optionsOf(int count, const char* const* options) {
  std::string result;
  for (int i = 0; i < count; ++i) {
    const std::string option = options[i];
    if (option.rfind("-D", 0) == 0 || option.rfind("-I", 0) == 0 || option.rfind("-U", 0) == 0) {
      result += " " + quoted(option);
      if (option.size() == 2 && i + 1 < count) result += " " + quoted(options[++i]);
    }
    if (option.rfind("--define-macro=", 0) == 0) result += " " + quoted("-D" + option.substr(15));
    if (option.rfind("--include-path=", 0) == 0) result += " " + quoted("-I" + option.substr(15));
  }
  return result;
}

}  // namespace

extern "C" {

const char* nvrtcGetErrorString(nvrtcResult result) {
  return result == NVRTC_SUCCESS             ? "NVRTC_SUCCESS"
         : result == NVRTC_ERROR_COMPILATION ? "NVRTC_ERROR_COMPILATION"
                                             : "NVRTC_ERROR";
}
nvrtcResult nvrtcVersion(int* major, int* minor) {
  *major = 13, *minor = 0;
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetNumSupportedArchs(int* count) {
  *count = 2;
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetSupportedArchs(int* archs) {
  archs[0] = 80, archs[1] = 90;
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcCreateProgram(nvrtcProgram* program, const char* source, const char* name, int headerCount,
                               const char* const* headers, const char* const* includeNames) {
  *program = new _nvrtcProgram;
  (*program)->source = source;
  (*program)->name = name ? name : "default_program";
  for (int i = 0; i < headerCount; ++i) (*program)->headers.emplace_back(includeNames[i], headers[i]);
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcDestroyProgram(nvrtcProgram* program) {
  delete *program;
  *program = nullptr;
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int optionCount, const char* const* options) {
  namespace fs = std::filesystem;
  std::string pattern = fs::temp_directory_path() / "lazuli-simt-XXXXXX";
  if (!mkdtemp(pattern.data())) return NVRTC_ERROR_OUT_OF_MEMORY;
  const fs::path folder = pattern;
  for (const auto& [name, text] : program->headers) writeAll(folder / "include" / name, text);
  writeAll(folder / "program.cpp", program->source);
  const char* compiler = std::getenv("LAZULI_SIMT_CXX");
  const std::string command = std::string(compiler ? compiler : LAZULI_SIMT_CXX) +
                              " " LAZULI_SIMT_FLAGS " -O1 -shared -o " + quoted(folder / "program.so") +
                              optionsOf(optionCount, options) + " -I" + quoted(folder / "include") + " -I" +
                              quoted(LAZULI_SIMT_NATIVE) + " " + quoted(folder / "program.cpp") + " >" +
                              quoted(folder / "log") + " 2>&1";
  const int status = std::system(command.c_str());
  program->log = readAll(folder / "log");
  // As the program was called, not where it happened to lie.
  const std::string place = folder / "program.cpp";
  for (size_t at; (at = program->log.find(place)) != std::string::npos;)
    program->log.replace(at, place.size(), program->name);
  if (status == 0) {
    const std::string object = readAll(folder / "program.so");
    lazuli::simt::ImageHead head{{}, object.size()};
    std::memcpy(head.magic, lazuli::simt::kImageMagic, sizeof head.magic);
    program->image.assign(reinterpret_cast<const char*>(&head), sizeof head);
    program->image += object;
  }
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  return status == 0 ? NVRTC_SUCCESS : NVRTC_ERROR_COMPILATION;
}

nvrtcResult nvrtcGetCUBINSize(nvrtcProgram program, size_t* bytes) {
  *bytes = program->image.size();
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetCUBIN(nvrtcProgram program, char* image) {
  std::memcpy(image, program->image.data(), program->image.size());
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetPTXSize(nvrtcProgram, size_t*) { return NVRTC_ERROR_INVALID_INPUT; }
nvrtcResult nvrtcGetPTX(nvrtcProgram, char*) { return NVRTC_ERROR_INVALID_INPUT; }
nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram program, size_t* bytes) {
  *bytes = program->log.size() + 1;
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetProgramLog(nvrtcProgram program, char* log) {
  std::memcpy(log, program->log.c_str(), program->log.size() + 1);
  return NVRTC_SUCCESS;
}

}  // extern "C"
