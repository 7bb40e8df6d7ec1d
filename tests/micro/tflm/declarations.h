// Declarations of TensorFlow Lite Micro, as many as a C pack's glue uses: no package ships the
// headers. Written after github.com/tensorflow/tflite-micro, for two layouts of it:
//
// default           classes in `tflite`, C types global. After
//                   micro/micro_interpreter.h at e511931, micro/micro_op_resolver.h and
//                   micro/micro_mutable_op_resolver.h (2025), micro/micro_common.h at 1178d74.
// TFLM_IN_MICRO     all but the schema in `tflite::micro`: the layout of the package tflite-micro
//                   0.dev20261023182759 (commit 8f6596d), read off the names in its _runtime.so.
//                   TfLiteTensor after micro/c/common.h at 25b10cd.
//
// What is virtual, what is passed and what is returned by value has upstream's layout, so that a
// glue compiled with these runs on that package's kernels. What is behind a pointer is opaque.
#ifndef SHOAL_TESTS_TFLM_DECLARATIONS_H_
#define SHOAL_TESTS_TFLM_DECLARATIONS_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef TFLM_IN_MICRO
#define TFLM_C_BEGIN namespace tflite { namespace micro {
#define TFLM_C_END }}
#define TFLM_BEGIN namespace tflite { namespace micro {
#define TFLM_END }}
#else
#define TFLM_C_BEGIN
#define TFLM_C_END
#define TFLM_BEGIN namespace tflite {
#define TFLM_END }
#endif

namespace tflite {
struct Model;
struct Operator;
enum BuiltinOperator : int32_t {
  BuiltinOperator_ADD = 0,
  BuiltinOperator_CONCATENATION = 2,
  BuiltinOperator_CONV_2D = 3,
  BuiltinOperator_FULLY_CONNECTED = 9,
  BuiltinOperator_MUL = 18,
  BuiltinOperator_RESHAPE = 22,
  BuiltinOperator_SOFTMAX = 25,
  BuiltinOperator_GATHER = 36,
  BuiltinOperator_MEAN = 40,
  BuiltinOperator_SUB = 41,
  BuiltinOperator_REDUCE_MAX = 82,
};
inline const Model* GetModel(const void* buffer) {
  uint32_t offset;  // of the root table (FlatBuffers)
  std::memcpy(&offset, buffer, sizeof offset);
  return reinterpret_cast<const Model*>(static_cast<const uint8_t*>(buffer) + offset);
}
}  // namespace tflite

TFLM_C_BEGIN
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
enum TfLiteType { kTfLiteInt32 = 2, kTfLiteInt8 = 9 };
struct TfLiteContext;
struct TfLiteNode;
struct TfLiteQuantization {
  int type;
  void* params;
};
struct TfLiteQuantizationParams {
  float scale;
  int32_t zero_point;
};
struct TfLiteTensor {
  TfLiteQuantization quantization;
  TfLiteQuantizationParams params;
  union {
    int32_t* i32;
    int8_t* int8;
    void* data;
  } data;
  void* dims;
  size_t bytes;
  TfLiteType type;
  int allocation_type;
  bool is_variable;
};
struct TFLMRegistration {
  void* (*init)(TfLiteContext*, const char*, size_t);
  void (*free)(TfLiteContext*, void*);
  TfLiteStatus (*prepare)(TfLiteContext*, TfLiteNode*);
  TfLiteStatus (*invoke)(TfLiteContext*, TfLiteNode*);
  void (*reset)(TfLiteContext*, void*);
  int32_t builtin_code;
  const char* custom_name;
};
TFLM_C_END

TFLM_BEGIN
class BuiltinDataAllocator;
class MicroAllocator;
class MicroResourceVariables;
class MicroProfilerInterface;

using TfLiteBridgeBuiltinParseFunction = TfLiteStatus (*)(const Operator*, BuiltinDataAllocator*,
                                                          void**);

class MicroOpResolver {
 public:
  virtual const TFLMRegistration* FindOp(BuiltinOperator op) const = 0;
  virtual const TFLMRegistration* FindOp(const char* op) const = 0;
  virtual TfLiteBridgeBuiltinParseFunction GetOpDataParser(BuiltinOperator op) const = 0;
  virtual ~MicroOpResolver() {}
};

#define TFLM_OPERATOR(NAME, PARSER)    \
  TFLMRegistration Register_##NAME(); \
  TfLiteStatus PARSER(const Operator*, BuiltinDataAllocator*, void**);
TFLM_OPERATOR(ADD, ParseAdd)
TFLM_OPERATOR(CONCATENATION, ParseConcatenation)
TFLM_OPERATOR(CONV_2D, ParseConv2D)
TFLM_OPERATOR(FULLY_CONNECTED, ParseFullyConnected)
TFLM_OPERATOR(GATHER, ParseGather)
TFLM_OPERATOR(MEAN, ParseReducer)
TFLM_OPERATOR(MUL, ParseMul)
TFLM_OPERATOR(REDUCE_MAX, ParseReducer)
TFLM_OPERATOR(RESHAPE, ParseReshape)
TFLM_OPERATOR(SOFTMAX, ParseSoftmax)
TFLM_OPERATOR(SUB, ParseSub)
#undef TFLM_OPERATOR

template <unsigned int tOpCount>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  explicit MicroMutableOpResolver() {}

  const TFLMRegistration* FindOp(BuiltinOperator op) const override {
    for (unsigned int i = 0; i < count_; ++i) {
      if (registrations_[i].builtin_code == op) return &registrations_[i];
    }
    return nullptr;
  }
  const TFLMRegistration* FindOp(const char*) const override { return nullptr; }
  TfLiteBridgeBuiltinParseFunction GetOpDataParser(BuiltinOperator op) const override {
    for (unsigned int i = 0; i < count_; ++i) {
      if (registrations_[i].builtin_code == op) return parsers_[i];
    }
    return nullptr;
  }

#define TFLM_ADD(METHOD, NAME, PARSER)                                                \
  TfLiteStatus METHOD(const TFLMRegistration& registration = Register_##NAME()) {     \
    return AddBuiltin(BuiltinOperator_##NAME, registration, PARSER);                  \
  }
  TFLM_ADD(AddAdd, ADD, ParseAdd)
  TFLM_ADD(AddConcatenation, CONCATENATION, ParseConcatenation)
  TFLM_ADD(AddConv2D, CONV_2D, ParseConv2D)
  TFLM_ADD(AddFullyConnected, FULLY_CONNECTED, ParseFullyConnected)
  TFLM_ADD(AddGather, GATHER, ParseGather)
  TFLM_ADD(AddMean, MEAN, ParseReducer)
  TFLM_ADD(AddMul, MUL, ParseMul)
  TFLM_ADD(AddReduceMax, REDUCE_MAX, ParseReducer)
  TFLM_ADD(AddReshape, RESHAPE, ParseReshape)
  TFLM_ADD(AddSoftmax, SOFTMAX, ParseSoftmax)
  TFLM_ADD(AddSub, SUB, ParseSub)
#undef TFLM_ADD

 private:
  TfLiteStatus AddBuiltin(BuiltinOperator op, const TFLMRegistration& registration,
                          TfLiteBridgeBuiltinParseFunction parser) {
    if (FindOp(op) != nullptr || count_ >= tOpCount) return kTfLiteError;
    registrations_[count_] = registration;
    registrations_[count_].builtin_code = op;
    parsers_[count_++] = parser;
    return kTfLiteOk;
  }

  TFLMRegistration registrations_[tOpCount];
  TfLiteBridgeBuiltinParseFunction parsers_[tOpCount];
  unsigned int count_ = 0;
};

template <typename T>
constexpr TfLiteType typeToTfLiteType();
template <>
constexpr TfLiteType typeToTfLiteType<int32_t>() {
  return kTfLiteInt32;
}
template <>
constexpr TfLiteType typeToTfLiteType<int8_t>() {
  return kTfLiteInt8;
}

class MicroInterpreter {
 public:
  MicroInterpreter(const Model* model, const MicroOpResolver& op_resolver, uint8_t* tensor_arena,
                   size_t tensor_arena_size, MicroResourceVariables* resource_variables = nullptr,
                   MicroProfilerInterface* profiler = nullptr, bool preserve_all_tensors = false);
  ~MicroInterpreter();
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteTensor* input(size_t index);
  TfLiteTensor* output(size_t index);
  template <class T>
  T* typed_input_tensor(int tensor_index) {
    return Typed<T>(input(static_cast<size_t>(tensor_index)));
  }
  template <class T>
  T* typed_output_tensor(int tensor_index) {
    return Typed<T>(output(static_cast<size_t>(tensor_index)));
  }

 private:
  template <class T>
  static T* Typed(TfLiteTensor* tensor) {
    if (tensor == nullptr || tensor->type != typeToTfLiteType<T>()) return nullptr;
    return static_cast<T*>(tensor->data.data);
  }
  alignas(16) unsigned char storage_[8192];  // of the real class; it takes less than 1 KB
};
TFLM_END

#endif
