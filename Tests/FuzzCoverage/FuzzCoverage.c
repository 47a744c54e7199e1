#include "FuzzCoverage.h"
#include <stdint.h>

void goliath_fuzz_coverage(void) {}

#define NOTHING(name, ...) void __sanitizer_cov_##name(__VA_ARGS__); void __sanitizer_cov_##name(__VA_ARGS__) {}
#define UNUSED __attribute__((unused))
NOTHING(8bit_counters_init, uint8_t *start UNUSED, uint8_t *end UNUSED)
NOTHING(pcs_init, const uintptr_t *start UNUSED, const uintptr_t *end UNUSED)
NOTHING(trace_pc_guard, uint32_t *guard UNUSED)
NOTHING(trace_pc_guard_init, uint32_t *start UNUSED, uint32_t *end UNUSED)
NOTHING(trace_pc_indir, uintptr_t callee UNUSED)
NOTHING(trace_cmp1, uint8_t a UNUSED, uint8_t b UNUSED)
NOTHING(trace_cmp2, uint16_t a UNUSED, uint16_t b UNUSED)
NOTHING(trace_cmp4, uint32_t a UNUSED, uint32_t b UNUSED)
NOTHING(trace_cmp8, uint64_t a UNUSED, uint64_t b UNUSED)
NOTHING(trace_const_cmp1, uint8_t a UNUSED, uint8_t b UNUSED)
NOTHING(trace_const_cmp2, uint16_t a UNUSED, uint16_t b UNUSED)
NOTHING(trace_const_cmp4, uint32_t a UNUSED, uint32_t b UNUSED)
NOTHING(trace_const_cmp8, uint64_t a UNUSED, uint64_t b UNUSED)
NOTHING(trace_switch, uint64_t value UNUSED, uint64_t *cases UNUSED)
NOTHING(trace_div4, uint32_t value UNUSED)
NOTHING(trace_div8, uint64_t value UNUSED)
NOTHING(trace_gep, uintptr_t index UNUSED)

// How deep the stack was, for each thread.
extern __thread uintptr_t __sancov_lowest_stack;
__thread uintptr_t __sancov_lowest_stack;
