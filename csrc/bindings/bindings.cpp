// torch's door to the kernels: checks that name what is wrong, output tensors, operators of the library `k15`.
//
// The only file that includes torch. The schemas' rules (shapes, dtypes) are those of k15/calls.h; fake implementations
// stand beside the Python face, in megatron_k15/kernels/native.py.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <tuple>
#include <type_traits>

#include "k15/calls.h"
#include "k15/packing.h"

namespace {

using at::Tensor;

k15::Dtype dtype_of(const char* name, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return k15::Dtype::f32;
    case at::kDouble:
      return k15::Dtype::f64;
    case at::kBFloat16:
      return k15::Dtype::bf16;
    case at::kHalf:
      return k15::Dtype::f16;
    default:
      TORCH_CHECK_TYPE(false, name, " must be float32, float64, bfloat16 or float16, got ", tensor.scalar_type());
  }
}

k15::Dtype computed_dtype_of(const char* name, const Tensor& tensor) {
  const auto dtype = dtype_of(name, tensor);
  TORCH_CHECK_TYPE(dtype == k15::Dtype::f32 || dtype == k15::Dtype::f64, name, " must be float32 or float64, got ",
                   tensor.scalar_type());
  return dtype;
}

// What fp32 and narrower logits are computed in, and what double ones are.
at::ScalarType computed_type(const Tensor& logits) { return logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

void check_vector(const char* name, const Tensor& tensor, int64_t size, at::ScalarType type, at::Device device) {
  TORCH_CHECK_VALUE(tensor.dim() == 1 && tensor.size(0) == size, name, " must have shape [", size, "], got ",
                    tensor.sizes());
  TORCH_CHECK_TYPE(tensor.scalar_type() == type, name, " must be ", type, ", got ", tensor.scalar_type());
  TORCH_CHECK_VALUE(tensor.device() == device, name, " must be on ", device, ", got ", tensor.device());
  TORCH_CHECK_VALUE(tensor.is_contiguous(), name, " must be contiguous, got stride ", tensor.strides());
}

void check_logits(const Tensor& logits, const Tensor& targets) {
  TORCH_CHECK_VALUE(logits.dim() == 2, "logits must have shape [tokens, vocabulary], got ", logits.sizes());
  TORCH_CHECK_VALUE(logits.size(1) <= 1 || logits.stride(1) == 1,
                    "logits must have unit stride along the vocabulary, got ", logits.strides(), ": call contiguous()");
  check_vector("targets", targets, logits.size(0), at::kLong, logits.device());
}

// Sequence (or group) bounds: the first 0, the last `total`, none smaller than the one before. Read on the CPU only: on a
// GPU that would wait for the device.
void check_bounds(const char* name, const Tensor& bounds, int64_t total, at::Device device) {
  TORCH_CHECK_VALUE(bounds.dim() == 1 && bounds.size(0) >= 1, name, " must have shape [count + 1], got ", bounds.sizes());
  check_vector(name, bounds, bounds.size(0), at::kLong, device);
  if (!device.is_cpu()) return;
  const int64_t* values = bounds.const_data_ptr<int64_t>();
  const int64_t last = bounds.size(0) - 1;
  TORCH_CHECK_VALUE(values[0] == 0 && values[last] == total, name, " must go from 0 to ", total, ", got ", values[0],
                    " to ", values[last]);
  for (int64_t j = 0; j < last; ++j)
    TORCH_CHECK_VALUE(values[j] <= values[j + 1], name, " must not fall, got ", values[j], " before ", values[j + 1]);
}

// One call on the device that holds the data.
template <class Call>
void run(const Call& call, at::Device device, void (*cpu)(const Call&, int),
         std::type_identity_t<int (*)(const Call&, void*)> cuda) {
  if (device.is_cpu()) return cpu(call, at::get_num_threads());
  TORCH_CHECK_VALUE(cuda, "these kernels were built for the CPU alone, got a tensor on ", device,
                    ": build them where nvcc and a CUDA torch are found");
  const c10::OptionalDeviceGuard guard(device);
  void* stream = c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle();
  const int error = cuda(call, stream);
  TORCH_CHECK(error == 0, "CUDA refused to launch a kernel: error ", error, " (cudaError_t)");
}

#ifdef K15_WITH_CUDA
#define K15_CUDA(function) k15::cuda::function
#else
#define K15_CUDA(function) nullptr
#endif

Tensor softmax_statistics(const Tensor& logits, const Tensor& targets, double scale, bool entropy) {
  check_logits(logits, targets);
  const Tensor statistics = at::empty({entropy ? 4 : 3, logits.size(0)}, logits.options().dtype(computed_type(logits)));
  const auto row = [&](int64_t index) { return statistics.select(0, index).mutable_data_ptr(); };
  const k15::StatisticsCall call{dtype_of("logits", logits), logits.const_data_ptr(), logits.size(0), logits.size(1),
                                 logits.stride(0), targets.const_data_ptr<int64_t>(), scale, row(0), row(1), row(2),
                                 entropy ? row(3) : nullptr};
  run(call, logits.device(), k15::cpu::softmax_statistics, K15_CUDA(softmax_statistics));
  return statistics;
}

void gradient_into(const Tensor& logits, const Tensor& targets, double scale, const Tensor& highest, const Tensor& sums,
                   const Tensor& coefficients, const Tensor& gradient) {
  check_logits(logits, targets);
  check_vector("highest", highest, logits.size(0), computed_type(logits), logits.device());
  check_vector("sums", sums, logits.size(0), computed_type(logits), logits.device());
  check_vector("coefficients", coefficients, logits.size(0), computed_type(logits), logits.device());
  const k15::GradientCall call{dtype_of("logits", logits), logits.const_data_ptr(), gradient.mutable_data_ptr(),
                               logits.size(0), logits.size(1), logits.stride(0), gradient.stride(0),
                               targets.const_data_ptr<int64_t>(), scale, highest.const_data_ptr(),
                               sums.const_data_ptr(), coefficients.const_data_ptr()};
  run(call, logits.device(), k15::cpu::logit_gradient, K15_CUDA(logit_gradient));
}

Tensor logit_gradient(const Tensor& logits, const Tensor& targets, double scale, const Tensor& highest,
                      const Tensor& sums, const Tensor& coefficients) {
  const Tensor gradient = at::empty(logits.sizes(), logits.options());
  gradient_into(logits, targets, scale, highest, sums, coefficients, gradient);
  return gradient;
}

void logit_gradient_(Tensor& logits, const Tensor& targets, double scale, const Tensor& highest, const Tensor& sums,
                     const Tensor& coefficients) {
  gradient_into(logits, targets, scale, highest, sums, coefficients, logits);
}

Tensor sequence_sums(const Tensor& logprobs, const Tensor& reference, const Tensor& mask, const Tensor& bounds) {
  const auto dtype = computed_dtype_of("logprobs", logprobs);
  check_vector("logprobs", logprobs, logprobs.numel(), logprobs.scalar_type(), logprobs.device());
  check_vector("reference", reference, logprobs.numel(), logprobs.scalar_type(), logprobs.device());
  check_vector("mask", mask, logprobs.numel(), at::kBool, logprobs.device());
  check_bounds("bounds", bounds, logprobs.numel(), logprobs.device());
  const Tensor sums = at::empty({bounds.size(0) - 1}, logprobs.options());
  const k15::SequenceSumsCall call{dtype, logprobs.const_data_ptr(), reference.const_data_ptr(),
                                   mask.const_data_ptr<bool>(), bounds.const_data_ptr<int64_t>(), sums.size(0),
                                   sums.mutable_data_ptr()};
  run(call, logprobs.device(), k15::cpu::sequence_sums, K15_CUDA(sequence_sums));
  return sums;
}

std::tuple<Tensor, Tensor, Tensor> policy_terms(const Tensor& logprobs, const std::optional<Tensor>& behaviour,
                                                const Tensor& mask, const Tensor& bounds, const Tensor& sums,
                                                const Tensor& advantages, const Tensor& weights, double tau,
                                                double importance_clip) {
  const auto dtype = computed_dtype_of("logprobs", logprobs);
  const auto type = logprobs.scalar_type();
  const auto device = logprobs.device();
  check_vector("logprobs", logprobs, logprobs.numel(), type, device);
  check_vector("mask", mask, logprobs.numel(), at::kBool, device);
  check_bounds("bounds", bounds, logprobs.numel(), device);
  const int64_t num_sequences = bounds.size(0) - 1;
  check_vector("sums", sums, num_sequences, type, device);
  check_vector("advantages", advantages, num_sequences, type, device);
  check_vector("weights", weights, num_sequences, type, device);
  if (behaviour) check_vector("behaviour", *behaviour, logprobs.numel(), type, device);
  const Tensor losses = at::empty_like(sums), coefficients = at::zeros_like(logprobs);
  const Tensor ratios = behaviour ? at::ones_like(logprobs) : at::empty({0}, logprobs.options());
  const k15::PolicyTermsCall call{dtype, logprobs.const_data_ptr(), behaviour ? behaviour->const_data_ptr() : nullptr,
                                  mask.const_data_ptr<bool>(), bounds.const_data_ptr<int64_t>(), num_sequences,
                                  sums.const_data_ptr(), advantages.const_data_ptr(), weights.const_data_ptr(), tau,
                                  importance_clip, losses.mutable_data_ptr(), coefficients.mutable_data_ptr(),
                                  behaviour ? ratios.mutable_data_ptr() : nullptr};
  run(call, device, k15::cpu::policy_terms, K15_CUDA(policy_terms));
  return {losses, coefficients, ratios};
}

std::tuple<Tensor, Tensor, Tensor> group_rewards(const Tensor& rewards, const Tensor& correct, const Tensor& lengths,
                                                 const Tensor& offsets, double length_weight, const std::string& baseline,
                                                 double tau) {
  const auto dtype = computed_dtype_of("rewards", rewards);
  check_vector("rewards", rewards, rewards.numel(), rewards.scalar_type(), rewards.device());
  check_vector("correct", correct, rewards.numel(), at::kBool, rewards.device());
  check_vector("lengths", lengths, rewards.numel(), at::kLong, rewards.device());
  check_bounds("offsets", offsets, rewards.numel(), rewards.device());
  const bool mean = baseline == "mean";
  TORCH_CHECK_VALUE(mean || baseline == "log_mean_exp", "baseline must be mean or log_mean_exp, got ", baseline);
  TORCH_CHECK_VALUE(mean || tau > 0, "tau must be above 0 for the log_mean_exp baseline, got ", tau);
  const Tensor length_rewards = at::empty_like(rewards), advantages = at::empty_like(rewards);
  const Tensor baselines = at::empty({offsets.size(0) - 1}, rewards.options());
  const k15::GroupCall call{dtype, rewards.const_data_ptr(), correct.const_data_ptr<bool>(),
                            lengths.const_data_ptr<int64_t>(), offsets.const_data_ptr<int64_t>(), baselines.size(0),
                            length_weight, mean ? k15::Baseline::mean : k15::Baseline::log_mean_exp, tau,
                            length_rewards.mutable_data_ptr(), baselines.mutable_data_ptr(),
                            advantages.mutable_data_ptr()};
  run(call, rewards.device(), k15::cpu::group_rewards, K15_CUDA(group_rewards));
  return {length_rewards, baselines, advantages};
}

void implement(torch::Library& library) {
  library.impl("softmax_statistics", softmax_statistics);
  library.impl("logit_gradient", logit_gradient);
  library.impl("logit_gradient_", logit_gradient_);
  library.impl("sequence_sums", sequence_sums);
  library.impl("policy_terms", policy_terms);
  library.impl("group_rewards", group_rewards);
}

}  // namespace

TORCH_LIBRARY(k15, library) {
  library.def("softmax_statistics(Tensor logits, Tensor targets, float scale, bool entropy) -> Tensor");
  library.def(
      "logit_gradient(Tensor logits, Tensor targets, float scale, Tensor highest, Tensor sums, Tensor coefficients) -> "
      "Tensor");
  library.def(
      "logit_gradient_(Tensor(a!) logits, Tensor targets, float scale, Tensor highest, Tensor sums, Tensor coefficients) "
      "-> ()");
  library.def("sequence_sums(Tensor logprobs, Tensor reference, Tensor mask, Tensor bounds) -> Tensor");
  library.def(
      "policy_terms(Tensor logprobs, Tensor? behaviour, Tensor mask, Tensor bounds, Tensor sums, Tensor advantages, "
      "Tensor weights, float tau, float importance_clip) -> (Tensor losses, Tensor coefficients, Tensor ratios)");
  library.def(
      "group_rewards(Tensor rewards, Tensor correct, Tensor lengths, Tensor offsets, float length_weight, str baseline, "
      "float tau) -> (Tensor length_rewards, Tensor baselines, Tensor advantages)");
}

TORCH_LIBRARY_IMPL(k15, CPU, library) { implement(library); }
#ifdef K15_WITH_CUDA
TORCH_LIBRARY_IMPL(k15, CUDA, library) { implement(library); }
#endif

PYBIND11_MODULE(_native, module) {
  module.doc() = "The compiled kernels; importing it registers the operators torch.ops.k15.*";
  module.def("best_fit", &k15::best_fit, pybind11::arg("lengths"), pybind11::arg("capacity"));
  module.def("instructions", &k15::cpu::instructions);
  module.def("choose_instructions", &k15::cpu::choose_instructions, pybind11::arg("name"));
#ifdef K15_WITH_CUDA
  module.attr("with_cuda") = true;
#else
  module.attr("with_cuda") = false;
#endif
}
