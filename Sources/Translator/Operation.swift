/// Which piece of the interpreter executes an instruction: the `handler` of `X86Instruction`.
///
/// The order of the first groups is that of the encoding, so that a decoder can add the operation's number to the group's
/// first case. RR: register, register (`rm` is the destination). RI: register, immediate. RM: register, memory.
package enum Operation: UInt8, Sendable {
  /// #UD.
  case undefined
  /// More than 15 bytes: #GP.
  case overlong
  /// Written over the instructions of an invalidated block: go back to the block lookup.
  case leave
  /// x87, MMX, SSE, AVX: the vector engine's.
  case vector
  case add32RR, or32RR, adc32RR, sbb32RR, and32RR, sub32RR, xor32RR, cmp32RR
  case add32RI, or32RI, adc32RI, sbb32RI, and32RI, sub32RI, xor32RI, cmp32RI
  case add32RM, or32RM, adc32RM, sbb32RM, and32RM, sub32RM, xor32RM, cmp32RM
  case add64RR, or64RR, adc64RR, sbb64RR, and64RR, sub64RR, xor64RR, cmp64RR
  case add64RI, or64RI, adc64RI, sbb64RI, and64RI, sub64RI, xor64RI, cmp64RI
  case add64RM, or64RM, adc64RM, sbb64RM, and64RM, sub64RM, xor64RM, cmp64RM
  /// All other sizes and forms of the eight.
  case alu
  case test32RR, test64RR, test8RR, test
  case mov32RR, mov64RR, mov8RR, movRI, load8, load16, load32, load64, store8, store16, store32,
    store64, mov
  case movzx8RR, movzx16RR, movzx8RM, movzx16RM, movx, movsxd
  case lea32, lea64, lea16
  case push64R, pop64R, pushR, popR, pushImmediate, pushRM, popRM, pushSegment, popSegment
  case inc32R, inc64R, dec32R, dec64R, unary
  case shl32RI, shr32RI, sar32RI, shl64RI, shr64RI, sar64RI, shift
  case jo, jno, jb, jae, je, jne, jbe, ja, js, jns, jp, jnp, jl, jge, jle, jg
  case jumpRelative, callRelative, return_, returnImmediate, jumpIndirect, callIndirect
  case loop, jcxz
  case setcc, cmov, imul, multiplyDivide
  case nop, pause, exchange, exchangeAccumulator
  case convertWide, convertDouble  // CBW CWDE CDQE, CWD CDQ CQO
  case shld, shrd, bitTest, bitScan, byteSwap, compareExchange, exchangeAdd, compareExchangeWide
  case popcnt, tzcnt, lzcnt, crc32, movbe, adcx, adox
  case andn, bmiGroup, bzhi, pdep, pext, mulx, bextr, shiftX, rorx
  case movnti
  case strings, portStrings, portIn, portOut
  case setFlag  // CLC STC CMC CLI STI CLD STD
  case lahf, sahf, pushf, popf
  case pusha, popa, bound, arpl, enter, leaveFrame, xlat
  case daa, das, aaa, aas, aam, aad, salc
  case jumpFar, callFar, jumpFarIndirect, callFarIndirect, returnFar, interruptReturn
  case int3, int, into, icebp
  case loadFarPointer, movFromSegment, movToSegment
  case hlt, cpuid, rdtsc, rdtscp, rdpid, rdpmc, rdmsr, wrmsr
  case syscall, sysret, sysenter, sysexit
  case clts, invd, wbinvd, cacheFlush, fence, prefetch
  case movFromControl, movToControl, movFromDebug, movToDebug
  case group6, group7, lar, lsl
  case invpcid, fsgsbase, random, xsetbv, xgetbv, swapgs, monitor, mwait, clac, stac
}
