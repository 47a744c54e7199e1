// What instrumented modules call in a program that is not fuzzed: nothing happens.
void goliath_fuzz_coverage(void);
