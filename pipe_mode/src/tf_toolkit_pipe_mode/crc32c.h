/* CRC-32C, by the processor's instructions where it has any for it. */
#ifndef TF_TOOLKIT_CRC32C_H
#define TF_TOOLKIT_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#include <wmmintrin.h>
#endif

/* https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4; its polynomial, bits reversed. */
static const uint32_t CRC32C_POLYNOMIAL = 0x82f63b78;
/* What TFRecord makes of it: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details */
static const uint32_t CRC32C_MASK_DELTA = 0xa282ead8;

static uint32_t crc32c_table[256];

static uint32_t crc32c_by_table(uint32_t crc, const unsigned char *data, size_t size) {
  while (size--) crc = crc32c_table[(crc ^ *data++) & 0xff] ^ crc >> 8;
  return crc;
}

static uint32_t (*crc32c_update)(uint32_t, const unsigned char *, size_t) = crc32c_by_table;

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_by_instruction(uint32_t crc, const unsigned char *data,
                                                                        size_t size) {
  uint64_t wide = crc, word;
  for (; size >= sizeof word; size -= sizeof word, data += sizeof word) {
    memcpy(&word, data, sizeof word);
    wide = _mm_crc32_u64(wide, word);
  }
  crc = (uint32_t)wide;
  while (size--) crc = _mm_crc32_u8(crc, *data++);
  return crc;
}

/* From how many bytes on folding costs less. */
enum { CRC32C_FOLDED_BYTES = 512 };

/* Powers of x modulo the polynomial. Products of words whose bits are reversed come out multiplied by x, so they are of
   one degree less than what they are for. */
static uint64_t crc32c_fold_low, crc32c_fold_high;

static uint64_t crc32c_power(int degree) {
  uint32_t power = 0x80000000;
  while (degree--) power = power & 1 ? power >> 1 ^ CRC32C_POLYNOMIAL : power >> 1;
  return (uint64_t)power << 32;
}

/* Four times 16 bytes at a time: each is multiplied by x^512, which is to say moved over the 64 bytes that follow, and
   added to those: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009.
   The last 64 have the same remainder as all did. */
__attribute__((target("sse4.2,pclmul"))) static uint32_t crc32c_by_folding(uint32_t crc, const unsigned char *data,
                                                                           size_t size) {
  if (size < CRC32C_FOLDED_BYTES) return crc32c_by_instruction(crc, data, size);
  __m128i words[4], powers = _mm_set_epi64x((long long)crc32c_fold_high, (long long)crc32c_fold_low);
  memcpy(words, data, sizeof words);
  words[0] = _mm_xor_si128(words[0], _mm_cvtsi32_si128((int)crc));
  for (data += sizeof words, size -= sizeof words; size >= sizeof words; data += sizeof words, size -= sizeof words)
    for (int index = 0; index < 4; index++) {
      __m128i low = _mm_clmulepi64_si128(words[index], powers, 0x00);
      __m128i high = _mm_clmulepi64_si128(words[index], powers, 0x11);
      __m128i next = _mm_loadu_si128((const __m128i *)data + index);
      words[index] = _mm_xor_si128(_mm_xor_si128(low, high), next);
    }
  return crc32c_by_instruction(crc32c_by_instruction(0, (const unsigned char *)words, sizeof words), data, size);
}
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
static uint32_t crc32c_by_instruction(uint32_t crc, const unsigned char *data, size_t size) {
  uint64_t word;
  for (; size >= sizeof word; size -= sizeof word, data += sizeof word) {
    memcpy(&word, data, sizeof word);
    crc = __crc32cd(crc, word);
  }
  while (size--) crc = __crc32cb(crc, *data++);
  return crc;
}
#endif

/* Before the first use. */
static void crc32c_prepare(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ CRC32C_POLYNOMIAL : crc >> 1;
    crc32c_table[byte] = crc;
  }
#if defined(__x86_64__)
  crc32c_fold_low = crc32c_power(512 + 64 - 1);
  crc32c_fold_high = crc32c_power(512 - 1);
  if (__builtin_cpu_supports("sse4.2"))
    crc32c_update = __builtin_cpu_supports("pclmul") ? crc32c_by_folding : crc32c_by_instruction;
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
  crc32c_update = crc32c_by_instruction;
#endif
}

static uint32_t crc32c_masked(const char *data, size_t size) {
  uint32_t crc = ~crc32c_update(~(uint32_t)0, (const unsigned char *)data, size);
  return (crc >> 15 | crc << 17) + CRC32C_MASK_DELTA;
}

#endif
